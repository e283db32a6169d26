"""Open the study of a sweep's folder to read it, whichever program its trials ran."""

from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.study import Study
from sqlalchemy.engine import make_url

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.storage import (
    STORAGE_ERRORS,
    absolute_storage_url,
    journal_path,
    open_storage,
    parse_dialect,
)

SETTINGS_FILE = "sweep.yaml"
OWN_STORAGE = "study.journal"


def read_sweep_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a sweep as its folder has them, for people: command, budget, sampler, space, ...

    Raises:
        ConfigError: If the file is missing or cannot be read.
    """
    path = folder / SETTINGS_FILE
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: cannot be read ({problem}); name the folder of a sweep") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: not the settings of a sweep; restore the file")
    return settings


def open_recorded_study(folder: Path, storage: str | None = None) -> Study:
    """Open the study of the sweep in `folder`; `storage` is the address of its database, if it has a password.

    Raises:
        ConfigError: If the folder has no study, or its storage cannot be read.
    """
    settings = read_sweep_settings(folder)
    name, address = str(settings.get("study", folder.name)), storage or str(settings.get("storage", OWN_STORAGE))
    url = None if address == OWN_STORAGE else address
    file = journal_path(folder) if url is None else _find_database_file(url)
    if file is not None and not file.is_file():  # which opening it would create
        raise ConfigError(f"{file}: there is no such file; restore the storage of study {name}")
    silence_optuna()
    try:
        return optuna.load_study(study_name=name, storage=open_storage(url, folder))
    except KeyError as error:
        raise ConfigError(f"study {name}: not in {hide_credentials(address)}; name its storage") from error
    except STORAGE_ERRORS as error:
        raise ConfigError(f"study {name}: {hide_credentials(address)} cannot be read: {error}") from error


def _find_database_file(url: str) -> Path | None:
    """Return the file of an SQLite database, None for a server."""
    database = make_url(absolute_storage_url(url)).database if parse_dialect(url) == "sqlite" else None
    return Path(database) if database and not database.startswith("file:") else None
