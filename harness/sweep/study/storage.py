"""Where a study is kept, and how its processes take turns."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zlib import crc32

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from harness.config.errors import ConfigError
from harness.core.files import FileLock

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60
"""How often a worker says that it lives, and after how long a silent one on another host is taken for dead."""

MAX_LINE_BYTES = 1 << 24
"""Bytes in which a journal's last line is looked for."""

ADVISORY_LOCK_SQL = {
    "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": ("SELECT GET_LOCK(:key, -1)", "SELECT RELEASE_LOCK(:key)"),
}
"""Locks that a server lets go of when the connection of a dead process ends."""


class JournalLock(BaseJournalFileLock):
    """A lock that the system lets go of when its holder dies; Optuna's own make everyone wait half a minute."""

    def __init__(self, journal: Path) -> None:
        self._journal, self._lock = journal, FileLock(journal.with_name(f"{journal.name}.lock"))

    def acquire(self) -> bool:
        self._lock.acquire()
        self._truncate_partial_line()
        return True

    def release(self) -> None:
        self._lock.release()

    def _truncate_partial_line(self) -> None:
        """What a full disk has cut off would make the next line unreadable, and with it the study."""
        with suppress(FileNotFoundError), self._journal.open("rb+") as file:
            end = file.seek(0, os.SEEK_END)
            if not end or (file.seek(-1, os.SEEK_END), file.read(1))[1] == b"\n":
                return
            file.seek(max(0, end - MAX_LINE_BYTES))
            file.truncate(end - len(file.read().rpartition(b"\n")[2]))


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The journal in `folder`, or the database at `url`, which knows its workers by their heartbeats."""
    if url is None:
        journal = folder / "study.journal"
        return JournalStorage(JournalFileBackend(str(journal), JournalLock(journal)))
    is_file = parse_dialect(url).startswith("sqlite")
    beats = {} if is_file else {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": GRACE_SECONDS}
    try:
        return RDBStorage(url, engine_kwargs={} if is_file else {"pool_pre_ping": True}, **beats)
    except Exception as error:  # whatever a driver raises
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ConfigError(f"sweep.storage: {make_url(url)!r} cannot be opened ({reason})") from error


def parse_dialect(url: str) -> str:
    """The dialect of an SQLAlchemy address; ConfigError for what is none."""
    try:
        return make_url(url).get_backend_name()
    except ArgumentError as error:
        hint = "use null for a journal file, or an address such as postgresql+psycopg://user@host/database"
        raise ConfigError(f"sweep.storage: {url!r} is no address of a database; {hint}") from error


def absolute_storage_url(url: str) -> str:
    """`url`, of a SQLite file the same from wherever it is opened; ConfigError for what is no address."""
    is_file = parse_dialect(url).startswith("sqlite")
    path = make_url(url).database if is_file else None
    return f"sqlite:///{Path(path).absolute()}" if path else url


@contextmanager
def study_lock(storage: BaseStorage, folder: Path, study_name: str) -> Iterator[None]:
    """One process of the study at a time, over all its hosts; one that dies lets go."""
    database = storage._backend if isinstance(storage, _CachedStorage) else None  # a study wraps its storage
    if database is None or database.engine.dialect.name not in ADVISORY_LOCK_SQL:
        with FileLock(folder / "turn.lock"):
            yield
        return
    take, give = ADVISORY_LOCK_SQL[database.engine.dialect.name]
    key = crc32(f"plateau-harness {study_name}".encode())
    with database.engine.connect() as connection:
        connection.execute(text(take), {"key": key})
        try:
            yield
        finally:
            connection.execute(text(give), {"key": key})
