"""The file in which a process records its run, from which everything that shows the run later is made."""

import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.core.files import FileLock
from harness.record.metrics_file import encode_entry


class EntryWriter:
    """Create the record of a run at `path` and write each entry at once; it is locked until `close`.

    Lines that a full disk rejects are kept and written with the next one; only `flush` raises.

    Args:
        is_continued: Open an existing record instead; call `cut_back` before the first entry.

    Raises:
        FileExistsError: If there is one: the record of another run is never overwritten.
    """

    def __init__(self, path: Path, *, is_continued: bool = False) -> None:
        self.path = path
        self._file = self.path.open("r+b" if is_continued else "xb", buffering=0)
        self._lock = FileLock(self.path, required=False)
        self._lock.acquire()
        self._unwritten = bytearray()
        self._has_warned = False

    def cut_back(self, offset: int) -> None:
        """Drop what follows byte `offset`, the end of an entry, and write there from now on."""
        self._file.truncate(offset)
        self._file.seek(offset)

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
            self._lock.release()
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
