"""SQLite stores of MLflow: created whole or not at all, and named where a killed process left one half made."""

import os
import re
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from harness.core.errors import DamageError
from harness.tracking.store_uri import artifact_root, sqlite_path

QUIET_S, MAX_WAIT_S = 5.0, 30.0
"""A store without data that changed more recently is being made by another process, which is awaited for so long."""
TABLES_FILLED_BY_MLFLOW = ("alembic_version", "workspaces")  # while it creates a store, before there is anything else
SCHEMA_ERROR = re.compile(
    r"already exists|duplicate column name|no such (table|column|index|constraint)|out-of-date database schema",
    re.IGNORECASE,
)


def open_sqlite_store(uri: str, file: Path) -> Any:
    """Return an MlflowClient of the SQLite store `file`, which is created or upgraded; the caller holds its lock.

    Raises:
        DamageError: If a process that was killed left it half made or half upgraded.
    """
    from mlflow import MlflowClient
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file = file.resolve()
    _remove_drafts(file)
    _wait_for_creation(file)
    if not _size(file):
        _create_store(uri, file)
    has_data = _has_data(file)
    try:
        if not has_data:  # MLflow continues where it was stopped, if it can
            SqlAlchemyStore(uri, artifact_root(uri))  # a client would create it with artifacts in the current folder
        return MlflowClient(uri, uri)
    except Exception as error:
        if not SCHEMA_ERROR.search(str(error)) or (has_data and "out-of-date" in str(error)):  # which has its remedy
            raise
    if has_data:
        raise DamageError(
            f"{file}: only half upgraded, because a process was killed while MLflow upgraded it; restore a backup of it"
        )
    raise DamageError(
        f"{file}: only half made, because a process was killed while MLflow created it; "
        "move it away and run `plateau sync FOLDER` for each run or sweep"
    )


def is_creating_store(uri: str, pid: int) -> bool:
    """Return whether a process of ours is creating the SQLite store at `uri`."""
    file = sqlite_path(uri)
    return file is not None and _draft_path(file.resolve(), pid).exists()


def _create_store(uri: str, file: Path) -> None:
    """Create a store under another name and rename it: MLflow cannot continue half-made tables."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = _draft_path(file, os.getpid())
    _, mark, options = uri.partition("?")
    try:
        SqlAlchemyStore(f"sqlite:///{draft}{mark}{options}", artifact_root(uri)).engine.dispose()
        _publish_draft(draft, file)
    finally:
        _remove_drafts(file)


def _publish_draft(draft: Path, file: Path) -> None:
    """Rename `draft` to `file`, unless another program created a store there in the meantime."""
    if file.exists() and not _size(file):
        file.unlink()
    try:
        file.hardlink_to(draft)  # unlike a rename, it replaces nothing
    except FileExistsError:
        _wait_for_creation(file)
    except OSError:  # a file system without hard links
        draft.rename(file)


def _wait_for_creation(file: Path) -> None:
    """Wait while another program creates a store: it holds no data yet, and changes."""
    deadline = time.monotonic() + MAX_WAIT_S
    while file.exists() and not _has_data(file) and time.monotonic() < deadline:
        if time.time() - file.stat().st_mtime > QUIET_S:
            return
        time.sleep(0.2)


def _has_data(file: Path) -> bool:
    """Return whether a table has a row that MLflow's migrations do not write, or the file cannot be read now."""
    query = "SELECT name FROM sqlite_master WHERE type = 'table'"
    try:
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
            database.execute("BEGIN")  # what follows sees one state
            tables = [name for (name,) in database.execute(query) if name not in TABLES_FILLED_BY_MLFLOW]
            return any(database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone() for name in tables)
    except sqlite3.Error:  # MLflow reports what is wrong with it
        return True


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _draft_path(file: Path, pid: int) -> Path:
    return file.with_name(f"{file.name}.new-{pid}")


def _remove_drafts(file: Path) -> None:
    """Remove what processes that were killed left, with SQLite's own files beside them."""
    for path in file.parent.iterdir():
        if path.name.startswith(f"{file.name}.new-"):
            with suppress(OSError):
                path.unlink()
