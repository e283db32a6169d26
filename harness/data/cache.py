"""A folder written whole or not at all, whatever process or power supply gives up half-way."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.files import FileLock, write_folder_atomically

CACHE_VERSION = 1
"""Part of every digest: one higher whenever the same source comes to be read, tokenised or stored differently."""
MANIFEST = "files.json"
"""The size in bytes of every other file of the folder; written last."""


def compute_digest(*parts: Any) -> str:
    """16 hexadecimal digits of the SHA-256 of `parts`, which are numbers, strings and lists of them."""
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts], ensure_ascii=False).encode()).hexdigest()[:16]


def compute_file_digest(path: Path) -> str:
    """The SHA-256 of the file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_cached(folder: Path, write: Callable[[Path], None]) -> Path:
    """`folder`, which `write` fills where it is missing or torn; processes that want it at once write it once."""

    def write_listed(draft: Path) -> None:
        write(draft)
        (draft / MANIFEST).write_text(json.dumps(_list_file_sizes(draft)))

    if _is_complete(folder):
        return folder
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            write_folder_atomically(folder, write_listed)
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        return json.loads((folder / MANIFEST).read_text()) == _list_file_sizes(folder)
    except (OSError, ValueError):
        return False


def _list_file_sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
