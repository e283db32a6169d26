"""The record of a run, metrics.jsonl: one JSON object per line, each with `kind` and `at_ms`.

`harness.record.event_entries` lists the kinds. The process that writes the file holds a `FileLock` on it.
"""

import json
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from harness.core.digests import add_digest_key
from harness.core.errors import DamageError
from harness.core.files import write_atomically

METRICS_FILE = "metrics.jsonl"
TRIAL_FILE = "trial_record.jsonl"
"""The same of a trial that another program ran, since that may write a metrics.jsonl of its own beside it."""
CHECKSUM = re.compile(rb',"crc32":"([0-9a-f]{8})"}(.)\Z', re.DOTALL)  # of what precedes it in its line; the line end
MAX_ENTRY_BYTES = 50_000_000  # a start entry with all parameters has some 10 KB
CHUNK_BYTES = 1 << 20


def encode_entry(entry: Mapping[str, Any]) -> bytes:
    """Return the entry as a line of strict JSON that ends with the CRC-32 of the rest.

    NaN and infinities become strings that float() can parse.
    """
    content = json.dumps(encode_nonfinite(entry), allow_nan=False).encode().removesuffix(b"}")
    return content + b',"crc32":"%08x"}\n' % zlib.crc32(content)


def find_record(folder: Path) -> Path:
    """Return the record of the run or trial in `folder`, which may not exist."""
    return folder / (TRIAL_FILE if (folder / TRIAL_FILE).exists() else METRICS_FILE)


def read_entries(path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete entry from byte `offset` on, its metrics as floats, with the offset of the next.

    Raises:
        DamageError: If a line is damaged or not an entry; the message names its number.
    """
    with path.open("rb") as file:
        file.seek(offset)
        yield from parse_entries(file, path, offset)


def parse_entries(file: IO[bytes], path: Path, offset: int = 0) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield the entries of an open file that begins at byte `offset` of `path`, as `read_entries` does."""
    first = offset
    for number, line in enumerate(iter(lambda: file.readline(MAX_ENTRY_BYTES), b""), 1):
        if not line.endswith(b"\n") and len(line) < MAX_ENTRY_BYTES and not is_record_line(line):
            return  # still being written
        entry = _parse_entry(line)
        if entry is None:
            number += _count_lines(path, first)
            remedy = "delete that line to leave it out" if number > 1 else "restore the file from a copy"
            raise DamageError(f"{path}, line {number}: damaged or not an entry; {remedy}")
        offset += len(line)
        yield entry, offset


def is_record_line(line: bytes) -> bool:
    """Return whether a line, with its end, was written by `encode_entry`, even if it has been damaged since."""
    return CHECKSUM.search(line) is not None


def _parse_entry(line: bytes) -> dict[str, Any] | None:
    """Return the entry in a line, or None if it is damaged."""
    checksum = CHECKSUM.search(line)
    if checksum and (zlib.crc32(line[: checksum.start()]) != int(checksum[1], 16) or checksum[2] != b"\n"):
        return None
    try:
        entry = json.loads(line)
        if not isinstance(entry["kind"], str):
            return None
        if "metrics" in entry:
            entry["metrics"] = {name: float(value) for name, value in entry["metrics"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    entry.pop("crc32", None)
    return dict(entry)


def _count_lines(path: Path, stop: int) -> int:
    """Return the number of lines before byte `stop`."""
    number = 0
    with path.open("rb") as file:
        while stop and (chunk := file.read(min(stop, CHUNK_BYTES))):
            number += chunk.count(b"\n")
            stop -= len(chunk)
    return number


def append_entries(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Append entries to the record of a process that died; a last line that it left incomplete is dropped."""
    with path.open("rb+") as file:
        complete = 0
        for line in file:
            complete += len(line) if line.endswith(b"\n") else 0
        file.truncate(complete)
        file.seek(complete)
        file.write(b"".join(map(encode_entry, entries)))
        file.flush()
        os.fsync(file.fileno())


def has_entries(path: Path) -> bool:
    """Return whether the record of a run has begun: whether its first line is complete."""
    return path.exists() and next(read_entries(path), None) is not None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically, with numbers as in `encode_entry` and the digest that `read_json` checks."""
    write_atomically(path, json.dumps(add_digest_key(encode_nonfinite(value)), allow_nan=False, indent=1) + "\n")


def encode_nonfinite(value: Any) -> Any:
    """Return plain data in which numbers that are not finite are texts, as JSON has none."""
    if isinstance(value, Mapping):
        return {key: encode_nonfinite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [encode_nonfinite(each) for each in value]
    return json.dumps(value) if isinstance(value, float) and not math.isfinite(value) else value
