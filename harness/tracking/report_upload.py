"""Log the report on a sweep to the sweep's parent run in MLflow."""

from collections.abc import Iterable
from pathlib import Path

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.record.sweep_files import SWEEP_FILE
from harness.tracking.mlflow_client import TrackingClient, UploadError, convert_errors
from harness.tracking.store_uri import adopt_configured_store, check_recorded_uri, resolve_store_uri, sqlite_path
from harness.tracking.sweep_uploader import is_sweep_folder, read_sweep_identity

ARTIFACT_FOLDER = "report"


def upload_report(sweep: Path, report: Path, files: Iterable[Path], store: str | None = None) -> str:
    """Log the files of a report as artifacts, and return a note if that was not possible.

    Nothing is done for a sweep that was never uploaded. Nothing is created: neither a store nor a run.

    Args:
        store: Address of the MLflow store in the user's configuration, if any. The recorded store, to which the report
            goes, is trusted if it is this one.
    """
    if not is_sweep_folder(sweep) or not (sweep / "mlflow.json").is_file():
        return ""
    adopt_configured_store()
    try:
        identity = read_sweep_identity(sweep)
        uri = identity["uri"]
        given = resolve_store_uri(store) if store else ""
        if hide_credentials(given) == uri:
            uri = given  # files store addresses without credentials
        else:
            check_recorded_uri(uri, SWEEP_FILE)
        file = sqlite_path(uri)
        if file is not None and not file.is_file():
            return f"the report is not in MLflow: there is no store {file}"
        with convert_errors(uri):
            client = TrackingClient(uri)
            run_id = client.find_run(identity["experiment"], identity["id"])
            if run_id is None:
                return "the report is not in MLflow: the sweep has no run there; `plateau sync` uploads it"
            for path in files:
                folder = (Path(ARTIFACT_FOLDER) / path.relative_to(report)).parent
                client.log_artifact(run_id, path, folder.as_posix())
    except (UploadError, ConfigError, ValueError, OSError) as error:
        return f"the report is not in MLflow: {error}"
    return ""
