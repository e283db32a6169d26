"""What is found of a run apart from its record: a file of metrics and a table in its folder, which MLflow gets too."""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.record import metrics_file

RESULT_FILES = ("blimp.json", "diagnoses.json")
"""Of the files that may lie in a run's folder; a later measurement replaces an earlier one."""


@dataclass(frozen=True)
class SavedResult:
    """Of the weights after `step`: metrics with units, a table of `columns` and `rows`, and how they came about."""

    step: int
    metrics: Mapping[str, float]
    units: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    about: Mapping[str, Any]
    at_ms: int


def write_result(folder: Path, name: str, **measured: Any) -> None:
    """Put a Result of now into the run's `folder`."""
    metrics_file.write_json(folder / name, asdict(SavedResult(**measured, at_ms=time.time_ns() // 1_000_000)))


def read_result(path: Path) -> SavedResult:
    return SavedResult(**json.loads(path.read_text()))


def result_digests(folder: Path) -> dict[str, str]:
    """Of the content of each result in `folder`."""
    found = [folder / name for name in RESULT_FILES if (folder / name).is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in found}
