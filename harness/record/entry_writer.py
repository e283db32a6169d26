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

    With `keep_bytes`, go on with an existing record, of which these bytes are kept. Lines that a full disk rejects are
    kept and written with the next one; only `flush` raises.

    Raises:
        FileExistsError: If there is one, without `keep_bytes`: the record of another run is never overwritten.
    """

    def __init__(self, path: Path, keep_bytes: int | None = None) -> None:
        self.path = path
        self._file = self.path.open("xb" if keep_bytes is None else "r+b", buffering=0)
        self._lock = FileLock(self.path, required=False)
        self._lock.acquire()
        if keep_bytes is not None:
            self._file.truncate(keep_bytes)
            self._file.seek(keep_bytes)
        self._unwritten = bytearray()
        self._has_warned = False

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
