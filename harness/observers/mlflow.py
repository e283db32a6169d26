"""MLflow, fed from metrics.jsonl by a process of its own: its import and its first migrations take seconds of Python
that a thread would take from training."""

from harness.core.events import Event, Observer, RunStart
from harness.record import metrics_file
from harness.tracking.run_uploader import Cursor
from harness.tracking.store_uri import EXPERIMENT, store_uri
from harness.tracking.upload_process import Follower, warn


class Deferred(Observer):
    """Notes that the run belongs into `experiment` of the store at `uri`, by default the project's own, and leaves it
    to the process that uploads the sweep, or to `python -m harness sync`, to bring it there."""

    def __init__(self, uri: str | None = None, experiment: str = EXPERIMENT) -> None:
        if not experiment:
            raise ValueError(f"experiment: {experiment!r} is no name")
        self._uri, self._experiment = store_uri(uri), experiment

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            Cursor(self._uri, self._experiment).save(event.folder)


class Mlflow(Deferred):
    """Records the run in `experiment` of the store at `uri` while it goes on; what a store that is down misses,
    `python -m harness sync` brings later. Comes after jsonl, which it reads, and figures, which it takes."""

    _follower: Follower | None = None

    def __call__(self, event: Event) -> None:
        if not isinstance(event, RunStart):
            return
        if not (event.folder / metrics_file.NAME).exists():
            warn(f"nothing goes to MLflow: it reads {metrics_file.NAME}, which observers.jsonl writes")
            return
        super().__call__(event)
        self._follower = Follower(event.folder)

    def close(self) -> None:
        if self._follower is not None:
            self._follower.close()
