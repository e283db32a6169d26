"""Result files in a run's folder: metrics and a table, measured apart from training. They are uploaded to MLflow."""

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.core.digests import read_json_as
from harness.record.metrics_file import write_json

RESULT_FILES = ("blimp.json", "diagnoses.json")
"""Names of result files. A new measurement overwrites the file."""


@dataclass(frozen=True)
class SavedResult:
    """Metrics of the weights after `step` with their units, a table of `columns` and `rows`, and details in `about`."""

    step: int
    metrics: Mapping[str, float]
    units: Mapping[str, str]
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    about: Mapping[str, Any]
    at_ms: int


def write_result(folder: Path, name: str, **fields: Any) -> None:
    """Write a SavedResult with these fields, measured now, to a file in the run's `folder`."""
    write_json(folder / name, asdict(SavedResult(**fields, at_ms=time.time_ns() // 1_000_000)))


def read_result(path: Path) -> SavedResult:
    return read_json_as(SavedResult, path)


def result_digests(folder: Path) -> dict[str, str]:
    """Return a digest of each result file in `folder` by name."""
    paths = [folder / name for name in RESULT_FILES if (folder / name).is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths}
