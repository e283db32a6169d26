"""Addresses of MLflow stores: the project's own, made absolute, checked and shown."""

import re
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
DEFAULT_EXPERIMENT = "default"
SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https", "databricks")


def default_store_uri() -> str:
    """The SQLite store of this project, wherever a command is started."""
    return f"sqlite:///{PROJECT}/mlruns/mlflow.db"


def resolve_store_uri(uri: str | None) -> str:
    """`uri`, a SQLite one with an absolute path; the default store for None; ValueError for what no store has."""
    if uri is None:
        return default_store_uri()
    scheme = uri.partition(":")[0].partition("+")[0]
    if scheme not in SCHEMES:
        raise ValueError(f"uri: {uri!r} is no tracking store; use sqlite:///FILE or http://HOST:PORT")
    if scheme != "sqlite":
        return uri
    path = uri.removeprefix("sqlite:///")
    if path in ("", ":memory:") or path == uri:
        raise ValueError(f"uri: {uri!r} names no file; use sqlite:///FILE")
    return f"sqlite:///{Path(path).absolute()}"


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store, None for any other."""
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def artifact_root(uri: str) -> str | None:
    """Where runs recorded straight into a database keep their files; None where a server decides."""
    if uri.startswith(("http", "databricks")):
        return None
    file = sqlite_path(uri)
    folder = file.parent if file else PROJECT / "mlruns"
    return (folder / "artifacts").as_uri()


def hide_credentials(uri: str) -> str:
    """`uri` without the user and password that may stand in it."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri)
