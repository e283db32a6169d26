"""MLflow, fed from metrics.jsonl by another process: importing MLflow and migrating a new store take seconds of Python,
which would stop training if they ran in one of its threads.
"""

from harness.core.events import Event, Observer, RunStart
from harness.record.metrics_file import METRICS_FILE
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, resolve_store_uri
from harness.tracking.upload_cursor import CURSOR_FILE, begin_upload
from harness.tracking.upload_process import UploadProcess, print_warning


class DeferredMlflowUpload(Observer):
    """Note that the run belongs to `experiment` of the store at `uri`, by default the project's own store.

    The process that uploads the sweep, or `plateau sync`, uploads it.
    """

    def __init__(self, uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT) -> None:
        if not experiment:
            raise ValueError("experiment: the name is empty")
        self._uri, self._experiment = resolve_store_uri(uri), experiment

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart) and not (event.past and (event.folder / CURSOR_FILE).exists()):
            begin_upload(event.folder, self._uri, self._experiment)


class MlflowUploader(DeferredMlflowUpload):
    """Upload the run while it is under way; `plateau sync` completes the upload if the store was down.

    Must come after MetricsWriter, whose file it reads, and FigureWriter, whose figures it uploads.
    """

    _process: UploadProcess | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RunStart):
            return
        if not (event.folder / METRICS_FILE).exists():
            print_warning(f"no upload to MLflow: it reads {METRICS_FILE}, which observers.metrics_file writes")
            return
        super().__call__(event)
        self._process = UploadProcess(event.folder, self._uri)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
