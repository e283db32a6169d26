"""Cache of folders that are either complete or absent, safe against crashes and concurrent processes."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.files import FileLock, write_folder_atomically

CACHE_VERSION = 1  # part of every digest; raise it when the same source is read, tokenized or stored differently
MANIFEST = "files.json"  # sizes in bytes of all other files of the folder, written last


def compute_digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `parts`: numbers, strings and (nested) lists of them."""
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts], ensure_ascii=False).encode()).hexdigest()[:16]


def compute_file_digest(path: Path) -> str:
    """Return the SHA-256 of the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_cached(folder: Path, write: Callable[[Path], None]) -> Path:
    """Return `folder`; let `write` fill it first if it is missing or incomplete. Concurrent processes write it once."""

    def write_with_manifest(draft: Path) -> None:
        write(draft)
        (draft / MANIFEST).write_text(json.dumps(_list_file_sizes(draft)))

    if _is_complete(folder):
        return folder
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not _is_complete(folder):
            write_folder_atomically(folder, write_with_manifest)
    return folder


def _is_complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / MANIFEST).read_text()) == _list_file_sizes(folder))
    except (OSError, ValueError):
        return False


def _list_file_sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
