"""Addresses of MLflow stores: the default store, validation, and credentials that are not stored."""

import os
from contextlib import suppress
from pathlib import Path

from harness.core.credentials import describe_malformed, hide_credentials
from harness.core.errors import ConfigError
from harness.core.extras import describe_missing_package
from harness.core.paths import config_dir, project_dir

DEFAULT_EXPERIMENT = "default"
STORE_FILE = "mlflow.db"  # where MLflow itself looks in the current folder
DATABASES = ("postgresql", "mysql", "mssql")
SCHEMES = ("sqlite", *DATABASES, "http", "https", "databricks")


def default_store_uri() -> str:
    """Return the address of the project's SQLite store, whatever the current folder; `mlflow ui` looks there too."""
    return f"sqlite:///{project_dir()}/{STORE_FILE}"


def folder_store_uri() -> str:
    """Return the address of the SQLite store in the current folder."""
    return f"sqlite:///{Path.cwd()}/{STORE_FILE}"


def program_store_uri(uri: str | None = None) -> str:
    """Return the address of the store for trials of another program, which was started in the current folder.

    That is `uri`, else the address in MLFLOW_TRACKING_URI, as that program's own runs, else the store in this folder.

    Raises:
        ValueError: If the address is not that of a tracking store.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri is not None or not given:
        return folder_store_uri() if uri is None else resolve_store_uri(uri)
    try:
        return resolve_store_uri(given)
    except ValueError as error:
        raise ValueError(f"MLFLOW_TRACKING_URI: {str(error).removeprefix('uri: ')}") from error


def find_store_uris(uri: str | None = None) -> list[str]:
    """Return the addresses where runs are looked for: `uri`, or else the current folder's store and the default one.

    Without `uri`, SQLite files that do not exist are left out: connecting would create them.

    Raises:
        ValueError: If `uri` is not the address of a tracking store.
    """
    if uri is not None:
        return [resolve_store_uri(uri)]
    stores = dict.fromkeys((folder_store_uri(), default_store_uri()))
    return [store for store in stores if (file := sqlite_path(store)) and file.exists()]


def resolve_store_uri(uri: str | None) -> str:
    """Return `uri` with the path of a SQLite file made absolute, the default store for None.

    Raises:
        ValueError: If `uri` is not the address of a tracking store.
    """
    if uri is None:
        return default_store_uri()
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES:
        hint = "use sqlite:///FILE or http://HOST:PORT"
        raise ValueError(f"uri: {describe_malformed(uri)} is not a tracking store; {hint}")
    if scheme != "sqlite":
        return uri
    path, mark, query = uri.removeprefix("sqlite:///").partition("?")
    if path in ("", ":memory:") or not uri.startswith("sqlite:///"):
        raise ValueError(f"uri: {describe_malformed(uri)} has no file name; use sqlite:///FILE")
    return f"sqlite:///{Path(path).absolute()}{mark}{query}"


def check_database_driver(key: str, uri: str) -> None:
    """Check that SQLAlchemy knows the database, and that its driver is installed; other addresses need none.

    Raises:
        ConfigError: If it does not, or if it is not; the message names the extra that has it.
    """
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import NoSuchModuleError, SQLAlchemyError

    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme in SCHEMES and scheme not in DATABASES:
        return
    try:
        make_url(uri).get_dialect().import_dbapi()
    except NoSuchModuleError as error:
        if scheme in SCHEMES:
            return  # an unknown driver is reported where the address is opened
        hint = "use one such as postgresql+psycopg://host/database"
        raise ConfigError(f"{key}: {hide_credentials(uri)}: there is no database {scheme!r}; {hint}") from error
    except SQLAlchemyError:
        return  # an invalid address is reported where it is opened
    except ModuleNotFoundError as error:
        reason = describe_missing_package(error) or f"the driver {error.name} is not installed; pip install its package"
        raise ConfigError(f"{key}: {hide_credentials(uri)}: {reason}") from error


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for any other store."""
    return Path(uri.removeprefix("sqlite:///").partition("?")[0]) if uri.startswith("sqlite:///") else None


def artifact_root(uri: str) -> str | None:
    """Return the folder of artifacts, as a URI, for a store without a server; None where the server decides.

    It is below mlruns/ beside a store that has the usual name, since a project may have a folder artifacts/ of its own.
    """
    if uri.startswith(("http", "databricks")):
        return None
    file = sqlite_path(uri) or project_dir() / STORE_FILE
    return (file.parent / ("mlruns" if file.name == STORE_FILE else "") / "artifacts").as_uri()


def is_own_store(uri: str) -> bool:
    """Return whether `uri` is the default store, that of the current folder or of MLFLOW_TRACKING_URI.

    Credentials are not compared.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    with suppress(ValueError):
        given = resolve_store_uri(given)
    return hide_credentials(uri) in (default_store_uri(), folder_store_uri(), hide_credentials(given))


def adopt_configured_store() -> None:
    """Make the store of the shipped configuration, which is the user's own in a checkout, that of MLFLOW_TRACKING_URI.

    Nothing is done if the environment names another.
    """
    from omegaconf import OmegaConf

    if uri := OmegaConf.load(config_dir() / "config.yaml").tracking.uri:
        os.environ.setdefault("MLFLOW_TRACKING_URI", resolve_store_uri(uri))


def check_recorded_uri(uri: str, file: str) -> None:
    """Check that the address of a store that `file` holds, which anyone may have written, is one of the user's.

    The credentials in the environment are sent to it, and a SQLite file is created or migrated there.

    Raises:
        ConfigError: If it is not.
    """
    if not is_own_store(uri):
        remedy = "set MLFLOW_TRACKING_URI to it to upload there; runs go only to the store that they were recorded for"
        if (path := sqlite_path(uri)) and path.name == STORE_FILE and path.exists():
            remedy = f"run this in {path.parent}, or {remedy}"
        raise ConfigError(f"{file}: uri: {hide_credentials(uri)}: not your tracking store; {remedy}")


def restore_credentials(uri: str) -> str:
    """Return the address in MLFLOW_TRACKING_URI if `uri` is the same address without its credentials, else `uri`.

    Files store addresses without credentials; set MLFLOW_TRACKING_URI for later uploads.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    return given if hide_credentials(given) == uri else uri
