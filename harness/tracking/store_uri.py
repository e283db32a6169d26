"""Addresses of MLflow stores: the default store, validation, and display without credentials."""

import re
from pathlib import Path

from harness.core.paths import project_dir

DEFAULT_EXPERIMENT = "default"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def default_store_uri() -> str:
    """Return the address of the project's SQLite store, whatever the current folder."""
    return f"sqlite:///{project_dir()}/mlruns/mlflow.db"


def resolve_store_uri(uri: str | None) -> str:
    """Return `uri` with the path of a SQLite file made absolute, the default store for None.

    Raises:
        ValueError: If `uri` is not the address of a tracking store.
    """
    if uri is None:
        return default_store_uri()
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"uri: {uri!r} is not a tracking store; use sqlite:///FILE or http://HOST:PORT")
    if scheme != "sqlite":
        return uri
    path = uri.removeprefix("sqlite:///")
    if path in ("", ":memory:") or path == uri:
        raise ValueError(f"uri: {uri!r} has no file name; use sqlite:///FILE")
    return f"sqlite:///{Path(path).absolute()}"


def sqlite_path(uri: str) -> Path | None:
    """Return the file of a SQLite store, None for any other store."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifact_root(uri: str) -> str | None:
    """Return the folder of artifacts, as a URI, for a store without a server; None where the server decides."""
    if uri.startswith(("http", "databricks")):
        return None
    file = sqlite_path(uri)
    folder = file.parent if file else project_dir() / "mlruns"
    return (folder / "artifacts").as_uri()


def hide_credentials(uri: str) -> str:
    """Return `uri` without user and password."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)
