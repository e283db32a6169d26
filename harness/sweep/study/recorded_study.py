"""Open the study of a sweep's folder to read it, whichever program its trials ran."""

import os
from pathlib import Path

import optuna
from optuna.study import Study
from sqlalchemy.engine import make_url

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.storage import (
    STORAGE_ERRORS,
    StorageOpenError,
    absolute_storage_url,
    journal_path,
    open_storage,
    parse_dialect,
)


def open_recorded_study(
    folder: Path, name: str, url: str | None, *, key: str = "STUDY", storage_option: str = "--storage URL"
) -> Study:
    """Open the study `name` in the database at `url`, or in the journal of the sweep's folder.

    Messages begin with `key`, and name the option for the address of a database.

    Raises:
        ConfigError: If there is no such study, or its storage cannot be read.
    """
    file = journal_path(folder) if url is None else _find_database_file(url)
    if file is not None and not os.path.lexists(file):  # opening would create it
        raise ConfigError(f"{key}: {folder}: {file} is missing; restore it")
    silence_optuna()
    where = hide_credentials(url) if url else journal_path(folder)
    remedy = f"if its address has a user or a password, give it with {storage_option}" if file is None else "restore it"
    try:
        storage = open_storage(url, folder)
        if name not in optuna.get_all_study_names(storage):
            raise ConfigError(f"{key}: {folder}: {where} has no study {name}; name its storage with {storage_option}")
        return optuna.load_study(study_name=name, storage=storage)
    except StorageOpenError as error:
        raise ConfigError(f"{key}: {folder}: {error.problem}; {remedy}") from error
    except STORAGE_ERRORS as error:
        raise ConfigError(f"{key}: {folder}: {where} cannot be read ({error}); {remedy}") from error


def _find_database_file(url: str) -> Path | None:
    """Return the file of an SQLite database, None for a server."""
    database = make_url(absolute_storage_url(url)).database if parse_dialect(url) == "sqlite" else None
    return Path(database) if database and not database.startswith("file:") else None
