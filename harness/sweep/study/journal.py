"""The journal file of a study: the locks under which it is written, and the removal of an incomplete last line.

Processes of this program and programs that open the journal with plain Optuna, such as a notebook or a dashboard, may
write at the same time.
"""

import errno
import os
import sys
import time
import uuid
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from harness.core.files import FileLock
from harness.sweep.optuna_internals import JournalFileLock, optuna_lock_path
from harness.sweep.study.journal_damage import MAX_RECORD_BYTES, describe_damage

POLL_SECONDS = 0.001  # an append and its flush to disk take a few milliseconds
SETTLE_SECONDS = 0.2  # within which a line that is still being written grows
# After which another program's lock is broken. Optuna itself waits 30 s. Breaking the lock of a program that has only
# stalled is harmless on a local disk, where one append is atomic.
LOCK_GRACE_SECONDS = 10.0
NO_SYMLINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class JournalLock(JournalFileLock):
    """Lock of a journal file: a file lock among the processes of this program, and inside it Optuna's own lock.

    The system releases the file lock when its holder dies. Optuna's lock is a symbolic link, which stays. Our link
    points to the lock file. Whoever holds the file lock may therefore remove a link of ours: its owner is dead.
    """

    def __init__(self, journal: Path) -> None:
        self._journal, self._link = journal, optuna_lock_path(journal)
        self._file = journal.with_name(f"{journal.name}.flock")
        self._lock = FileLock(self._file)

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            os.utime(self._file)  # Optuna breaks a lock whose target keeps its time for 30 s
            self._create_link()
            self._remove_partial_line()
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._read_link() == self._file.name:
            self._link.unlink(missing_ok=True)
        self._lock.release()

    def _create_link(self) -> None:
        """Take Optuna's lock, from a dead process at once and from another program after `LOCK_GRACE_SECONDS`."""
        seen, since = None, time.monotonic()
        while True:
            try:
                self._link.symlink_to(self._file.name)
                return
            except FileExistsError:
                pass
            except OSError as error:
                if error.errno in NO_SYMLINKS:  # so no other program has Optuna's default lock either
                    return
                raise
            holder = self._identify_holder()
            if holder != seen:
                seen, since = holder, time.monotonic()
            if self._read_link() == self._file.name or (holder and time.monotonic() - since > LOCK_GRACE_SECONDS):
                self._break_link()
            else:
                time.sleep(POLL_SECONDS)

    def _identify_holder(self) -> tuple[int, int] | None:
        """Return what tells one holder of Optuna's lock from the next; None if it has just been released."""
        try:
            status = self._link.lstat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns

    def _read_link(self) -> str | None:
        try:
            return os.readlink(self._link)
        except OSError:  # released, or a file, as Optuna's JournalFileOpenLock creates it
            return None

    def _break_link(self) -> None:
        """Remove the lock of a dead process. Rename it first: only one of those that break it succeeds."""
        broken = self._link.with_name(f"{self._link.name}{uuid.uuid4()}.rename")
        with suppress(FileNotFoundError):
            self._link.rename(broken)
            broken.unlink()

    def _remove_partial_line(self) -> None:
        """Remove a last line without newline, as a full disk leaves it: appending to it would corrupt the study."""
        with suppress(FileNotFoundError), self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if not end or _read_last_byte(file.fileno(), end) == b"\n":
                return
            time.sleep(SETTLE_SECONDS)  # a writer that lost its lock while it was stalled may be writing
            if (end := file.seek(0, os.SEEK_END)) and _read_last_byte(file.fileno(), end) == b"\n":
                return
            file.seek(max(0, end - MAX_RECORD_BYTES))
            line = file.read().rpartition(b"\n")[2]
            if not line.startswith(b"{"):  # not written by Optuna: damage, or a file that is not a journal
                return
            n_bytes = len(line)
            file.truncate(end - n_bytes)
            print(f"note: {self._journal}: removed an incomplete last line of {n_bytes} bytes", file=sys.stderr)


class StudyJournal(JournalFileBackend):
    """Journal file that is written under a `JournalLock`, and whose damage is described."""

    def __init__(self, journal: Path) -> None:
        self._journal = journal
        super().__init__(str(journal), JournalLock(journal))

    def read_logs(self, log_number_from: int) -> Generator[dict[str, Any], None, None]:
        """Yield the records from a number on.

        Raises:
            ConfigError: If a line is not JSON.
        """
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            if damage := describe_damage(self._journal):
                raise damage from error
            raise


def _read_last_byte(descriptor: int, end: int) -> bytes:
    return os.pread(descriptor, 1, end - 1)
