"""Storage of a study, and the lock that its processes share."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.study import Study
from sqlalchemy import text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from harness.core.credentials import describe_malformed, hide_credentials, hide_credentials_in_text
from harness.core.errors import ConfigError
from harness.core.files import FileLock
from harness.sweep.optuna_internals import get_database_engine
from harness.sweep.study.journal import StudyJournal
from harness.sweep.study.journal_damage import describe_damage, has_intact_end

HEARTBEAT_SECONDS = 10
HEARTBEAT_GRACE_SECONDS = 60  # without a heartbeat, before a worker on another host is considered dead
DATABASE_ERRORS = (StorageInternalError, SQLAlchemyError)
STORAGE_ERRORS = (OSError, *DATABASE_ERRORS)
ADVISORY_LOCK_SQL = {  # locks that the server releases when the connection of a dead process closes
    "postgresql": ("SELECT pg_advisory_lock(:key)", "SELECT pg_advisory_unlock(:key)"),
    "mysql": ("SELECT GET_LOCK(:key, -1)", "SELECT RELEASE_LOCK(:key)"),
}


class StorageOpenError(ConfigError):
    """A database that cannot be opened. `problem` says which and why, without the name of the setting."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"sweep.storage: {problem}")
        self.problem = problem


def journal_path(folder: Path) -> Path:
    """Return the journal file in a sweep's folder."""
    return folder / "study.journal"


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Open the database at `url`, or the journal file in `folder`.

    Raises:
        ConfigError: If `url` is not an SQLAlchemy URL, or the journal is damaged.
        StorageOpenError: If the database cannot be opened.
    """
    if url is None:
        return _open_journal(journal_path(folder))
    options: dict[str, Any] = {}
    if parse_dialect(url) != "sqlite":  # a file, whose workers are all on this host and are known by their pids
        options = {"heartbeat_interval": HEARTBEAT_SECONDS, "grace_period": HEARTBEAT_GRACE_SECONDS}
        options["engine_kwargs"] = {"pool_pre_ping": True}
    try:
        return RDBStorage(url, **options)
    except Exception as error:  # drivers raise their own types
        reason = hide_credentials_in_text(str(error.__cause__ or error).partition("\n")[0], url)
        raise StorageOpenError(f"{hide_credentials(url)} cannot be opened ({reason})") from error


def _open_journal(journal: Path) -> BaseStorage:
    try:
        if has_intact_end(journal):
            return JournalStorage(StudyJournal(journal))
    except (ConfigError, OSError):
        raise
    except Exception as error:  # whatever Optuna runs into when it applies a wrong record
        if damage := describe_damage(journal):
            raise damage from error
        raise
    raise describe_damage(journal) or ConfigError(f"{journal}: changed while it was read; try again")


def parse_dialect(url: str) -> str:
    """Return the dialect of an SQLAlchemy URL, such as "postgresql".

    Raises:
        ConfigError: If `url` is not an SQLAlchemy URL.
    """
    try:
        return make_url(url).get_backend_name()
    except ArgumentError as error:
        hint = "leave it out for a journal file, or a URL such as postgresql+psycopg://user@host/database"
        raise ConfigError(f"sweep.storage: {describe_malformed(url)} is not a database URL; {hint}") from error


def absolute_storage_url(url: str) -> str:
    """Return `url` with an absolute path if it names an SQLite file, so that it is valid from any folder."""
    path = make_url(url).database if parse_dialect(url) == "sqlite" else None
    if not path or path.startswith("file:"):
        return url
    return make_url(url).set(database=str(Path(path).absolute())).render_as_string(hide_password=False)


@contextmanager
def study_lock(study: Study, folder: Path) -> Iterator[None]:
    """Hold the lock that all processes of a study share, over all hosts. The death of its holder releases it."""
    engine = get_database_engine(study)
    if engine is None or engine.dialect.name not in ADVISORY_LOCK_SQL:
        with FileLock(folder / "study.lock"):
            yield
        return
    lock, unlock = ADVISORY_LOCK_SQL[engine.dialect.name]
    key = crc32(f"plateau-harness {study.study_name}".encode())
    with engine.connect() as connection:
        connection.execute(text(lock), {"key": key})
        try:
            yield
        finally:
            connection.execute(text(unlock), {"key": key})
