"""MLflow, fed from metrics.jsonl by a process of its own: its import and its first migrations take seconds of Python
that a thread would take from training."""

from harness.core.events import Event, Observer, RunStart
from harness.record import metrics_file
from harness.tracking.run_uploader import UploadCursor
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, resolve_store_uri
from harness.tracking.upload_process import UploadProcess, print_warning


class DeferredMlflowUpload(Observer):
    """Notes that the run belongs into `experiment` of the store at `uri`, by default the project's own, and leaves it
    to the process that uploads the sweep, or to `python -m harness sync`, to bring it there."""

    def __init__(self, uri: str | None = None, experiment: str = DEFAULT_EXPERIMENT) -> None:
        if not experiment:
            raise ValueError(f"experiment: {experiment!r} is no name")
        self._uri, self._experiment = resolve_store_uri(uri), experiment

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            UploadCursor(self._uri, self._experiment).save(event.folder)


class MlflowUploader(DeferredMlflowUpload):
    """Records the run in `experiment` of the store at `uri` while it goes on; what a store that is down misses,
    `python -m harness sync` brings later. Comes after jsonl, which it reads, and figures, which it takes."""

    _process: UploadProcess | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RunStart):
            return
        if not (event.folder / metrics_file.METRICS_FILE).exists():
            print_warning(f"nothing goes to MLflow: it reads {metrics_file.METRICS_FILE}, which observers.metrics_file writes")
            return
        super().__call__(event)
        self._process = UploadProcess(event.folder)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
