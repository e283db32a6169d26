"""metrics.jsonl, a run's plain record: what a line looks like, and whether the process that writes it lives."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.files import write_atomically

METRICS_FILE = "metrics.jsonl"


def encode_entry(kind: str, **fields: Any) -> bytes:
    """One line; numbers JSON lacks stand as the strings NaN, Infinity and -Infinity, which float() reads."""
    return json.dumps(_encode_nonfinite({"kind": kind, **fields}), allow_nan=False).encode() + b"\n"


def read_entries(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Each whole line from byte `offset` on, its metrics as floats, with the offset behind it; ValueError for a line
    that is no record's."""
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(f"{path} holds no record at byte {offset}")
            if "metrics" in entry:
                entry["metrics"] = {name: float(value) for name, value in entry["metrics"].items()}
            offset += len(line)
            yield entry, offset


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write `node` as a JSON file that is there whole or not at all."""
    write_atomically(path, json.dumps(_encode_nonfinite(value), allow_nan=False, indent=1) + "\n")


def _encode_nonfinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode_nonfinite(value) for key, value in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_nonfinite(value) for value in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
