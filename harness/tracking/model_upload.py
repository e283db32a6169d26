"""Upload of an exported model to the run in MLflow that trained it."""

from pathlib import Path

from harness.core.errors import ConfigError
from harness.tracking.mlflow_client import TrackingClient, convert_errors
from harness.tracking.store_uri import check_recorded_uri
from harness.tracking.upload_cursor import UploadCursor


def check_uploaded(folder: Path) -> UploadCursor:
    """Return the cursor of a run that MLflow has.

    Raises:
        ConfigError: If it does not have it yet, or the store is not the user's.
    """
    cursor = UploadCursor.load(folder)
    if cursor.run_id is None:
        raise ConfigError(f"{folder} is not in MLflow yet; upload it with `plateau sync {folder}` first")
    check_recorded_uri(cursor.uri, "mlflow.json")
    return cursor


def upload_folder(folder: Path, extra: Path, name: str) -> str:
    """Upload the files in `extra` as the artifact folder `name` of the run in `folder`, and return its address.

    Raises:
        UploadError: If the store did not accept all of them.
        ConfigError: If it does not have the run yet, or is not the user's.
    """
    cursor = check_uploaded(folder)
    assert cursor.run_id is not None
    with convert_errors(cursor.uri):
        client = TrackingClient(cursor.uri)
        for path in sorted(path for path in extra.rglob("*") if path.is_file() and not path.is_symlink()):
            client.log_artifact(cursor.run_id, path, str(Path(name) / path.relative_to(extra).parent))
    return f"runs:/{cursor.run_id}/{name}"
