"""Where a study is kept, and how its processes take turns."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zlib import crc32

from filelock import FileLock
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from harness.explain import ConfigError

HEARTBEAT_SECONDS, GRACE_SECONDS = 10, 60
"""How often a worker says that it lives, and after how long a silent one on another host is taken for dead."""

LOCKS = {
    "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": ("SELECT GET_LOCK(:key, -1)", "SELECT RELEASE_LOCK(:key)"),
}
"""Locks that a server lets go of when the connection of a dead process ends."""


class JournalLock(BaseJournalFileLock):
    """A lock that the system lets go of when its holder dies; Optuna's own make everyone wait half a minute."""

    def __init__(self, path: Path) -> None:
        self._lock = FileLock(path)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """The journal in `folder`, or the database at `url`, which knows its workers by their heartbeats."""
    if url is None:
        journal = folder / "study.journal"
        return JournalStorage(JournalFileBackend(str(journal), JournalLock(folder / "study.journal.lock")))
    is_file = check_url(url).startswith("sqlite")
    beats = {} if is_file else {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": GRACE_SECONDS}
    try:
        return RDBStorage(url, engine_kwargs={} if is_file else {"pool_pre_ping": True}, **beats)
    except Exception as error:  # whatever a driver raises
        reason = str(error.__cause__ or error).partition("\n")[0]
        raise ConfigError(f"sweep.storage: {make_url(url)!r} cannot be opened ({reason})") from error


def check_url(url: str) -> str:
    """The dialect of an SQLAlchemy address; ConfigError for what is none."""
    try:
        return make_url(url).get_backend_name()
    except ArgumentError as error:
        hint = "use null for a journal file, or an address such as postgresql+psycopg://user@host/database"
        raise ConfigError(f"sweep.storage: {url!r} is no address of a database; {hint}") from error


@contextmanager
def turn(storage: BaseStorage, folder: Path, study_name: str) -> Iterator[None]:
    """One process of the study at a time, over all its hosts; one that dies lets go."""
    database = storage._backend if isinstance(storage, _CachedStorage) else None  # a study wraps its storage
    if database is None or database.engine.dialect.name not in LOCKS:
        with FileLock(folder / "turn.lock"):
            yield
        return
    take, give = LOCKS[database.engine.dialect.name]
    key = crc32(f"plateau-harness {study_name}".encode())
    with database.engine.connect() as connection:
        connection.execute(text(take), {"key": key})
        try:
            yield
        finally:
            connection.execute(text(give), {"key": key})
