"""SHA-256 digests that show damage: of single files, of folders, and of texts and JSON values that carry their own."""

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from harness.core.errors import DamageError
from harness.core.files import check_regular_file, read_small_file

T = TypeVar("T")
MANIFEST = "harness-files.json"  # SHA-256 of all other files of its folder by name, written last
DIGEST_KEY = "sha256"  # of the other keys of a JSON object
DIGEST_COMMENT = re.compile(rb"# sha256: ([0-9a-f]{64})\s*\Z")
EDITED = "restore the file, or, if you edited it on purpose, delete its"
SETTLED_NS = 2_000_000_000
"""A file may change twice within the resolution of its time stamp, so digests of newer files are not remembered."""

_known: dict[tuple[int, int, int, int], str] = {}


def compute_file_digest(path: Path) -> str:
    """Return the SHA-256 of the content of a file. A process reads each version of a file once.

    Raises:
        ValueError: If it is not a regular file.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        found = os.fstat(file.fileno())
        version = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if version in _known:
            return _known[version]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if time.time_ns() - found.st_mtime_ns > SETTLED_NS:
        _known[version] = digest
    return digest


def compute_json_digest(value: Any) -> str:
    """Return the SHA-256 of a value as JSON, the same before it is written and after it is read."""
    as_read = json.loads(json.dumps(value))  # keys that are numbers have become strings
    return hashlib.sha256(json.dumps(as_read, sort_keys=True).encode()).hexdigest()


def compute_array_digest(*arrays: np.ndarray) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of the arrays: their shapes, types and values."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.shape} {array.dtype.str} ".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:16]


def describe_mismatch(path: Path, recorded_in: str) -> str:
    """Return the message for a file whose digest differs from the recorded one."""
    return f"{path} is damaged: its SHA-256 differs from the one in {recorded_in}"


def write_manifest(folder: Path) -> None:
    """Write the digests of all files in `folder` to its MANIFEST."""
    digests = {name: compute_file_digest(folder / name) for name in sorted(_list_files(folder))}
    (folder / MANIFEST).write_text(json.dumps(digests, indent=1))


def find_damaged_file(folder: Path, allow_others: bool = False) -> str | None:
    """Return what is wrong with a folder that has a MANIFEST, None if it is as written.

    Files that the manifest does not list are damage too, unless `allow_others` is set.
    """
    try:
        digests: dict[str, str] = dict(json.loads(read_small_file(folder / MANIFEST)))
    except (OSError, ValueError, TypeError, RecursionError):
        return f"{folder / MANIFEST} is missing or damaged"
    files = _list_files(folder)
    for name, digest in digests.items():
        if name not in files:
            return f"{folder / name} is missing, but listed in {MANIFEST}"
        if compute_file_digest(folder / name) != digest:
            return describe_mismatch(folder / name, MANIFEST)
    others = [] if allow_others else sorted(files - digests.keys())
    return f"{folder / others[0]} is not in {MANIFEST}" if others else None


def check_exported(folder: Path) -> None:
    """Check a folder that may be an export of ours, which then has a MANIFEST.

    Raises:
        DamageError: If it is damaged.
    """
    if (folder / MANIFEST).is_file() and (damage := find_damaged_file(folder, allow_others=True)):
        raise DamageError(f"{damage}; export it again, or, if you edited it on purpose, delete {MANIFEST}")


def add_digest_comment(text: str) -> str:
    """Return a YAML text with its digest in a comment at its end."""
    return f"{text}# sha256: {hashlib.sha256(text.encode()).hexdigest()}\n"


def check_digest_comment(path: Path, content: bytes) -> None:
    """Check the content of a file against the comment at its end, if there is one.

    Raises:
        DamageError: If they differ.
    """
    comment = DIGEST_COMMENT.search(content)
    if comment and hashlib.sha256(content[: comment.start()]).hexdigest() != comment[1].decode():
        raise DamageError(f"{describe_mismatch(path, 'its last line')}; {EDITED} last line")


def add_digest_key(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a JSON object with its digest under DIGEST_KEY."""
    return {**value, DIGEST_KEY: compute_json_digest(value)}


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object and check it against its digest, if it has one.

    Raises:
        DamageError: If the file is damaged or not a JSON object.
        OSError: If it cannot be read.
    """
    try:
        value = json.loads(read_small_file(path))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DamageError(f"{path} is damaged: not a JSON object")
    digest = value.pop(DIGEST_KEY, None)
    if digest is not None and digest != compute_json_digest(value):
        raise DamageError(f"{describe_mismatch(path, f'its key {DIGEST_KEY}')}; {EDITED} key {DIGEST_KEY}")
    return value


def read_json_as(kind: type[T], path: Path) -> T:
    """Read a JSON object whose keys are the fields of a dataclass.

    Raises:
        DamageError: If the file is damaged or has other keys.
        OSError: If it cannot be read.
    """
    try:
        return kind(**read_json(path))
    except TypeError as error:
        raise DamageError(f"{path} is damaged: it has other keys than were written; restore the file") from error


def _list_files(folder: Path) -> set[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix() for path in files}
