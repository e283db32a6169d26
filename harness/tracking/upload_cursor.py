"""Position of the upload of a run to MLflow, also across the continuations of the run."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from harness.core.credentials import hide_credentials
from harness.core.digests import read_json, read_json_as
from harness.core.errors import DamageError
from harness.core.files import FileLock
from harness.record.metrics_file import METRICS_FILE, write_json
from harness.record.sweep_files import SWEEP_FILE
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, default_store_uri

CURSOR_FILE, LOCK_FILE = "mlflow.json", "mlflow.lock"


@dataclass
class UploadCursor:
    """State of the upload of a run, kept in mlflow.json in the run's folder, without the credentials of `uri`."""

    uri: str
    experiment: str
    run_id: str | None = None
    name: str = ""  # of the run in MLflow
    parent: str | None = None
    sweep: str | None = None
    offset: int = 0  # bytes of metrics.jsonl
    files: list[str] = field(default_factory=list)
    results: dict[str, str] = field(default_factory=dict)  # digests by file name
    is_complete: bool = False
    is_paused: bool = False  # complete for now
    is_reopened: bool = False  # continued in its folder, which MLflow does not know yet
    ahead: dict[str, list[int]] = field(default_factory=dict)  # steps by metric that MLflow has and the record repeats
    replaced: list[str] = field(default_factory=list)  # runs in MLflow to delete, since this one started over

    @classmethod
    def load(cls, folder: Path) -> "UploadCursor":
        """Read the cursor of the run in `folder`.

        One recorded without MLflow belongs to the store of its sweep, or else to the default store.
        """
        path = folder / CURSOR_FILE
        if path.exists():
            return read_json_as(cls, path)
        with suppress(OSError, ValueError, KeyError):
            sweep = read_json(folder.parent / SWEEP_FILE)
            return cls(str(sweep["uri"]), str(sweep["experiment"]))
        return cls(default_store_uri(), DEFAULT_EXPERIMENT)

    def save(self, folder: Path) -> None:
        write_json(folder / CURSOR_FILE, {**asdict(self), "uri": hide_credentials(self.uri)})

    @property
    def lacks_parent(self) -> bool:
        """Return whether the run belongs to a sweep that MLflow did not have at the last upload."""
        return self.sweep is not None and self.parent is None


def begin_upload(folder: Path, uri: str, experiment: str) -> None:
    """Note where a new run is uploaded. It replaces the run that was cleared from its folder, if there was one."""
    replaced: list[str] = []
    if (folder / CURSOR_FILE).exists():
        with suppress(DamageError, OSError):
            replaced = UploadCursor.load(folder).replaced
    UploadCursor(uri, experiment, replaced=replaced).save(folder)


def reopen_upload(folder: Path) -> None:
    """Let the next upload continue a run that was taken for dead, now that its record has been completed."""
    if not (folder / CURSOR_FILE).exists():
        return
    with FileLock(folder / LOCK_FILE, required=False):
        cursor = UploadCursor.load(folder)
        cursor.is_complete = False
        cursor.files = [name for name in cursor.files if name != METRICS_FILE]
        cursor.save(folder)


@contextmanager
def rewound_upload(folder: Path, n_bytes: int) -> Iterator[None]:
    """Keep uploads waiting while the record is cut back to `n_bytes`; later ones continue the same run from there."""
    with FileLock(folder / LOCK_FILE, required=False):
        yield
        if (folder / CURSOR_FILE).exists():
            cursor = UploadCursor.load(folder)
            cursor.offset = min(cursor.offset, n_bytes)
            cursor.is_complete = cursor.is_paused = False
            cursor.is_reopened = cursor.run_id is not None
            cursor.files = []
            cursor.save(folder)


def replace_upload(folder: Path) -> None:
    """Let the next upload create another run in place of the present one, which it then deletes."""
    if not (folder / CURSOR_FILE).exists():
        return
    with FileLock(folder / LOCK_FILE, required=False):
        try:
            old = UploadCursor.load(folder)
        except DamageError:  # nobody knows which run it was
            (folder / CURSOR_FILE).unlink()
            return
        replaced = [*old.replaced, *([old.run_id] if old.run_id else [])]
        UploadCursor(old.uri, old.experiment, replaced=replaced).save(folder)
