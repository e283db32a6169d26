"""Atomic writes and file locks.

A path written here holds either the old content or the new one, whatever process or power supply fails half-way.
"""

import fcntl
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

DRAFT_SUFFIX, REMOVED_SUFFIX = ".tmp", ".removed"
MAX_SMALL_BYTES = 64_000_000
"""Limit for a file that is read as a whole, such as JSON."""
LOCK_POLL_S = 0.02
FILE_KINDS = {
    stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device",
}  # fmt: skip


def check_regular_file(path: Path) -> None:
    """Check that `path` is a file that can be read to its end: reading a pipe or a device may never end.

    Raises:
        ValueError: If it is something else.
        OSError: If there is nothing.
    """
    kind = FILE_KINDS.get(stat.S_IFMT(path.stat().st_mode))
    if kind:
        raise ValueError(f"{path} is {kind}, not a regular file; give a regular file")


def read_small_file(path: Path, max_bytes: int = MAX_SMALL_BYTES) -> bytes:
    """Return the content of a file.

    Raises:
        ValueError: If it is not a regular file, or larger than `max_bytes`.
        OSError: If it cannot be read.
    """
    check_regular_file(path)
    with path.open("rb") as file:
        content = file.read(max_bytes + 1)
    if len(content) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes:,} bytes")
    return content


def write_atomically(path: Path, data: str | bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it to `path`."""
    with open_atomically(path) as file:
        file.write(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_atomically(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that becomes `path` when the block ends; an exception leaves `path` as it was."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError as error:
        error.filename = error.filename or str(draft)  # a failed write does not say where
        raise
    finally:
        draft.unlink(missing_ok=True)


def write_folder_atomically(folder: Path, write: Callable[[Path], None]) -> None:
    """Have `write` fill a temporary folder, flush its files to disk and move it to `folder`.

    One process at a time may write a folder; hold a `FileLock` where several could.
    """
    draft = folder.with_name(f"{folder.name}{DRAFT_SUFFIX}")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        for path in (*draft.rglob("*"), draft):
            _flush_to_disk(path)
        replace_folder(draft, folder)
    except OSError as error:
        error.filename = error.filename or str(draft)
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove `folder` and its backup; do nothing if there is neither, or if the system refuses.

    Each folder is renamed before it is removed, so that a killed process leaves a name that is never read; the next
    call or `remove_leftovers` removes it.
    """
    _rename_and_remove(_backup_path(folder))  # first: `find_intact_folder` would return it once the folder is gone
    _rename_and_remove(folder)


def remove_leftovers(parent: Path) -> bool:
    """Remove what killed processes left in `parent`: drafts, and folders that were being removed.

    Return whether all could be removed. No process may write there at the same time.
    """
    leftovers = [*parent.glob(f"*{DRAFT_SUFFIX}"), *parent.glob(f"*{REMOVED_SUFFIX}")]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True)
    return not any(path.exists() for path in leftovers)


def replace_folder(new: Path, folder: Path) -> None:
    """Move `new` to `folder`. If the process dies between the two renames, `find_intact_folder` finds the old one."""
    backup = _backup_path(folder)
    if folder.exists():  # rename refuses a target that has files
        _rename_and_remove(backup)
        folder.rename(backup)
    new.rename(folder)
    _flush_to_disk(folder.parent)
    _rename_and_remove(backup)


def find_intact_folder(folder: Path) -> Path:
    """Return `folder`, or its backup where `replace_folder` was interrupted."""
    backup = _backup_path(folder)
    return backup if backup.exists() and not folder.exists() else folder


def _rename_and_remove(folder: Path) -> None:
    removed = folder.with_name(f"{folder.name}{REMOVED_SUFFIX}")
    shutil.rmtree(removed, ignore_errors=True)  # what a killed process left
    with suppress(OSError):
        folder.rename(removed)
        shutil.rmtree(removed, ignore_errors=True)


def _backup_path(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.old")


def _flush_to_disk(path: Path) -> None:
    """Flush a file's content, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileLock:
    """Exclusive lock on a file, between processes and between threads, released by the system when its holder dies.

    Some network file systems have no locks. There `acquire` raises OSError, or goes without one if not `required`.
    """

    def __init__(self, path: Path, required: bool = True) -> None:
        self._path, self._required = path, required
        self._file: BinaryIO | None = None

    def acquire(self, blocking: bool = True) -> bool:
        """Take the lock and return True; return False if `blocking` is off and someone else holds it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = self._path.open("ab")  # NFS gives exclusive locks on writable files only
        try:
            fcntl.flock(file, fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        except OSError:
            if self._required:
                file.close()
                raise
        self._file = file
        return True

    def release(self) -> None:
        """Release the lock if it is held."""
        file, self._file = self._file, None  # before unlocking: another thread may acquire at once
        if file is not None:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_UN)  # for forked processes too, which share the open file
            file.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the open file: a copy in another process does not hold the lock."""
        return {**self.__dict__, "_file": None}

    def __enter__(self) -> "FileLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def acquire_within(lock: FileLock, seconds: float) -> bool:
    """Take a lock that readers and the children of killed processes hold for a moment; return whether that worked."""
    deadline = time.monotonic() + seconds
    while not lock.acquire(blocking=False):
        if time.monotonic() > deadline:
            return False
        time.sleep(LOCK_POLL_S)
    return True


def stays_locked(path: Path, seconds: float) -> bool:
    """Return whether another process holds the lock of an existing file, and goes on doing so for this time."""
    deadline = time.monotonic() + seconds
    while is_locked(path):
        if time.monotonic() > deadline:
            return True
        time.sleep(LOCK_POLL_S)
    return False


def is_locked(path: Path) -> bool | None:
    """Return whether a living process holds the `FileLock` of an existing file; None if the file system cannot tell."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two that ask do not see each other
        except BlockingIOError:
            return True
        except OSError:
            return None
    return False
