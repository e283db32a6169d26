"""The file in which a process records its run, from which everything that shows the run later is made."""

import errno
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core.files import DRAFT_SUFFIX, FileLock, acquire_within
from harness.record.metrics_file import CHUNK_BYTES, encode_entry

LOCK_WAIT_S = 5.0
"""Time after which a record that is still locked counts as being written."""


class EntryWriter:
    """Create the record of a run at `path` and write each entry at once; it is locked until `close`.

    With `keep_bytes`, go on with an existing record, of which these bytes are kept. Lines that a full disk rejects are
    kept and written with the next one; only `flush` raises.

    Raises:
        FileExistsError: If there is one, without `keep_bytes`: the record of another run is never overwritten.
        BlockingIOError: If another process writes it.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None) -> None:
        self.path = path
        if keep_bytes is None:
            self._file = self.path.open("xb", buffering=0)
            self._locks = [FileLock(self.path, required=False)]
            self._locks[0].acquire()
        else:
            self._locks = _cut_record(path, keep_bytes)
            self._file = self.path.open("ab", buffering=0)
        self._unwritten = bytearray()
        self._has_warned = False

    @property
    def n_bytes(self) -> int:
        """Return the length of the file."""
        return os.fstat(self._file.fileno()).st_size

    def write(self, entries: Iterable[Mapping[str, Any]]) -> None:
        for entry in entries:
            self._unwritten += encode_entry(entry)
            self._try_to_write()

    def flush(self) -> None:
        """Write what is left to the disk.

        Raises:
            OSError: If that fails.
        """
        if not self._file.closed:
            self._write()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if not self._file.closed:
            self._try_to_write()
            for lock in self._locks:
                lock.release()
            self._file.close()

    def _write(self) -> None:
        while self._unwritten:
            del self._unwritten[: self._file.write(self._unwritten)]

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._has_warned:
                with suppress(OSError):  # stderr may be a file on the same disk
                    print(f"warning: {self.path}: {error}; will write later", file=sys.stderr)
            self._has_warned = True


def _cut_record(path: Path, n_bytes: int) -> list[FileLock]:
    """Replace a record by its first bytes, and return the locks of both: whoever waits for the old one gets none.

    A reader sees either the old record or the new one, whenever this process is killed.
    """
    old = FileLock(path, required=False)
    if not acquire_within(old, LOCK_WAIT_S):
        raise BlockingIOError(errno.EWOULDBLOCK, "another process writes this run", str(path))
    pattern = f".{path.name}.*{DRAFT_SUFFIX}"
    try:
        for leftover in path.parent.glob(pattern):  # of processes that were killed here
            leftover.unlink(missing_ok=True)
        draft = path.with_name(pattern.replace("*", str(os.getpid())))
        new = FileLock(draft, required=False)
        new.acquire()
        try:
            _copy_bytes(path, draft, n_bytes)
            draft.replace(path)
        except BaseException:
            new.release()
            draft.unlink(missing_ok=True)
            raise
    except BaseException:
        old.release()
        raise
    return [new, old]


def _copy_bytes(source: Path, target: Path, n_bytes: int) -> None:
    with source.open("rb") as kept, target.open("wb") as file:
        while n_bytes and (chunk := kept.read(min(n_bytes, CHUNK_BYTES))):
            file.write(chunk)
            n_bytes -= len(chunk)
        file.flush()
        os.fsync(file.fileno())
