"""Cache of folders that are either complete or absent, safe against crashes and concurrent processes."""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from harness.core.digests import find_damaged_file, write_manifest
from harness.core.files import FileLock, write_folder_atomically
from harness.core.terminal import announce

CACHE_VERSION = 1  # part of every digest; raise it when the same source is read, tokenized or stored differently


def compute_digest(*parts: Any) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `parts`: numbers, strings and (nested) lists of them."""
    return hashlib.sha256(json.dumps([CACHE_VERSION, *parts], ensure_ascii=False).encode()).hexdigest()[:16]


def ensure_cached(folder: Path, write: Callable[[Path], None], task: str = "") -> Path:
    """Return `folder`; let `write` fill it first if it is missing or damaged. Concurrent processes write it once.

    `task` says in the terminal what is done, such as "fitting a tokenizer".

    Every file is compared with its SHA-256: about 1 s for each GB, once per process.
    """

    def write_with_manifest(draft: Path) -> None:
        if task:
            announce(f"{task}; done once, then cached")
        write(draft)
        write_manifest(draft)

    if is_intact(folder):
        return folder
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.exists():
            write_folder_atomically(folder, write_with_manifest)
        elif damage := find_damaged_file(folder):
            print(f"warning: {damage}; rebuilding {folder}", file=sys.stderr)
            write_folder_atomically(folder, write_with_manifest)
    return folder


def is_intact(folder: Path) -> bool:
    """Return whether a cached folder exists and all of its files are as written."""
    return folder.is_dir() and find_damaged_file(folder) is None
