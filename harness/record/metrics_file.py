"""metrics.jsonl, the record of a run: one JSON object per line, each with `kind` and `at_ms`.

`harness.record.event_entries` lists the kinds. The process that writes the file holds a `FileLock` on it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.core.files import write_atomically

METRICS_FILE = "metrics.jsonl"


def encode_entry(entry: Mapping[str, Any]) -> bytes:
    """Return the entry as a line of strict JSON; NaN and infinities become strings that float() can parse."""
    return json.dumps(_encode_nonfinite(entry), allow_nan=False).encode() + b"\n"


def read_entries(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete entry from byte `offset` on, its metrics as floats, with the offset of the next.

    Raises:
        ValueError: If a line is not a JSON object.
    """
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                return
            try:
                entry = json.loads(line)
            except ValueError:
                entry = None
            if not isinstance(entry, dict):
                raise ValueError(f"{path}: not a JSON object at byte {offset}")
            if "metrics" in entry:
                entry["metrics"] = {name: float(value) for name, value in entry["metrics"].items()}
            offset += len(line)
            yield entry, offset


def has_entries(path: Path) -> bool:
    """Return whether the record of a run has begun: whether its first line is complete."""
    return path.exists() and next(read_entries(path), None) is not None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with numbers as in `encode_entry`."""
    write_atomically(path, json.dumps(_encode_nonfinite(value), allow_nan=False, indent=1) + "\n")


def _encode_nonfinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode_nonfinite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_nonfinite(each) for each in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
