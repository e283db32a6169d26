"""A log that is still being written: it is read again, as a whole, whenever it has changed."""

import os
import select
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from harness.diagnosis.history import History
from harness.importers import read_histories
from harness.importers.sources.standard_input import read_spooled
from harness.record.metrics_file import find_record

HEAD_BYTES = 256  # at the start of a file, by which a new content is recognized
CHUNK_BYTES = 1 << 16


class Stamp(NamedTuple):
    """The state of a file or folder; another one means that it has changed."""

    inode: int
    size: int
    changed_ns: int
    head: bytes


class GrowingLog:
    """A log file, or the folder of a run. It may be truncated, or replaced by a new file, as logs are rotated.

    The rows before that are kept if the steps of the new content continue them.
    """

    def __init__(self, path: Path, read: Callable[[Path], list[History]] = read_histories) -> None:
        record = find_record(path)
        self.path = record if record.is_file() else path
        self.problem = ""  # why the present content cannot be read
        self.restarts = 0  # how often it began again with a new run
        self._read, self._stamp = read, Stamp(0, 0, 0, b"")
        self._latest: list[History] = []
        self._earlier: History | None = None

    @property
    def has_ended(self) -> bool:
        """Return whether nothing can follow."""
        return False

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def read_changed(self) -> list[History] | None:
        """Return the runs so far; None if nothing has changed, or the content cannot be read (yet)."""
        try:
            stamp = self._read_stamp()
            if stamp == self._stamp:
                return None
            if self._was_replaced(stamp) and self._latest:
                self._earlier = self._latest[-1]
            self._stamp = stamp
            histories = self._read(self.path)
        except (ValueError, OSError) as error:
            self.problem = str(error)
            return None
        self.problem = ""
        if self._earlier is not None and not _join(self._earlier, histories[0]):
            self._earlier, self.restarts = None, self.restarts + 1
        self._latest = histories
        return histories

    def _read_stamp(self) -> Stamp:
        if self.path.is_dir():
            found = [file.stat() for file in self.path.rglob("*") if file.is_file()]
            changed_ns = max((state.st_mtime_ns for state in found), default=0)
            return Stamp(self.path.stat().st_ino, sum(state.st_size for state in found), changed_ns, b"")
        state = self.path.stat()
        with self.path.open("rb") as file:
            return Stamp(state.st_ino, state.st_size, state.st_mtime_ns, file.read(HEAD_BYTES))

    def _was_replaced(self, stamp: Stamp) -> bool:
        known = self._stamp
        if self.path.is_dir():
            return False
        return stamp.inode != known.inode or stamp.size < known.size or not stamp.head.startswith(known.head)


class GrowingInput(GrowingLog):
    """Standard input, which is copied to a file in `folder` while time passes."""

    def __init__(self, folder: Path) -> None:
        path = folder / "stdin"
        self._file, self._has_ended = path.open("wb", buffering=0), False
        super().__init__(path, read_spooled)

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def wait(self, seconds: float) -> None:
        """Copy what arrives; return early at the end of the input."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._has_ended:
            if select.select([sys.stdin], [], [], left)[0]:
                chunk = os.read(sys.stdin.fileno(), CHUNK_BYTES)
                self._file.write(chunk)
                self._has_ended = not chunk


def _join(earlier: History, later: History) -> bool:
    """Put the rows of an earlier part before those of a later one; return False if the later one is another run."""
    if not later.prepend(earlier):
        return False
    facts = later.facts
    later.facts = replace(facts, source=f"{facts.source}, after the rows of a file that it has replaced")
    return True
