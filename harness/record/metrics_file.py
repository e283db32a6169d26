"""metrics.jsonl, a run's plain record: what a line looks like, and whether the process that writes it lives."""

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

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
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(_encode_nonfinite(value), allow_nan=False, indent=1) + "\n")
    partial.replace(path)


def hold(file: BinaryIO) -> None:
    """Mark a record as being written, until `release` or the end of this process, however it ends."""
    with suppress(OSError):  # some network file systems know no locks
        fcntl.flock(file, fcntl.LOCK_EX)


def release(file: BinaryIO) -> None:
    with suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_UN)


def is_held(path: Path) -> bool | None:
    """Whether a living process writes this record; None where the file system cannot tell."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False


def _encode_nonfinite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _encode_nonfinite(value) for key, value in value.items()}
    if isinstance(value, list | tuple):
        return [_encode_nonfinite(value) for value in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
