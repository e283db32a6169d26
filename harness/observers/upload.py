"""Brings to MLflow what it lacks of a run's metrics.jsonl: once, after the fact, or from a process beside the run."""

import fcntl
import json
import os
import re
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from harness.observers import record
from harness.observers.store import EXPERIMENT, artifact_root, default_uri, shown, sqlite_file

ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a retried "create run" makes two; we look before we try again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""For the processes that upload, where the user has set nothing else."""

STATUSES = {
    "completed": "FINISHED",
    "pruned": "KILLED",
    "interrupted": "KILLED",
    "diverged": "FAILED",
    "failed": "FAILED",
}
DIED = {"status": "failed", "reason": "its process died"}
COLUMNS = {"command": "mlflow.source.name", "git.commit": "mlflow.source.git.commit", "user": "mlflow.user"}
"""Our tags that the MLflow UI shows under names of its own."""

RECORD_ID = "harness.record_id"
MAX_METRICS, MAX_PARAMS, MAX_VALUE, MAX_KEY, MAX_DIGEST = 1000, 100, 6000, 250, 36
POLL_SECONDS = 2.0
LAST_TRIES = {"file": 8, "server": 3}
"""Once a run is over: a file that is locked is soon free, a server that is down is not. Less than a minute in all."""


class UploadFailed(Exception):
    """The store did not take everything; what it took is kept and known."""


@dataclass
class Cursor:
    """What MLflow has of a record, beside it in mlflow.json."""

    uri: str
    experiment: str
    run_id: str | None = None
    offset: int = 0
    files: list[str] = field(default_factory=list)
    is_complete: bool = False

    @classmethod
    def load(cls, folder: Path) -> "Cursor":
        """A run recorded without MLflow goes to the default store."""
        path = folder / "mlflow.json"
        return cls(**json.loads(path.read_text())) if path.exists() else cls(default_uri(), EXPERIMENT)

    def save(self, folder: Path) -> None:
        partial = folder / "mlflow.json.partial"
        partial.write_text(json.dumps(asdict(self), indent=1))
        partial.replace(folder / "mlflow.json")


@dataclass(frozen=True)
class Uploaded:
    """What one upload brought over; `is_complete` when the run has ended and MLflow has all of it."""

    lines: int
    files: int
    is_complete: bool
    uri: str


def upload(folder: Path, say: Callable[[str], None] = print) -> Uploaded:
    """Bring over what is missing, nothing twice; UploadFailed, to be called again, where the store does not take it."""
    with _alone(folder / "mlflow.lock"):
        is_held = record.is_held(folder / record.NAME)  # asked before reading: what is let go of is whole
        cursor = Cursor.load(folder)
        if cursor.is_complete:
            return Uploaded(0, 0, True, shown(cursor.uri))
        try:
            return _Upload(folder, cursor, say).run(is_held)
        except Exception as error:  # whatever a backend raises
            raise UploadFailed(f"MLflow at {shown(cursor.uri)} did not take it ({_reason(error)})") from error


def follow(folder: Path) -> int:
    """Upload a record as it grows until its run ends or dies; 0 once MLflow has all of it, 1 after the last try."""
    os.nice(10)  # training comes first
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the run, whose end shows below
    tries = LAST_TRIES["file" if sqlite_file(Cursor.load(folder).uri) else "server"]
    has_warned, is_over = False, False
    while tries:
        try:
            if upload(folder, _say).is_complete:
                return 0
        except UploadFailed as error:
            if not has_warned:
                _say(f"{error}; training goes on and everything is kept in {folder / record.NAME}")
            has_warned = True
        if is_over:
            tries -= 1
            time.sleep(1)
        else:
            is_over = bool(select.select([sys.stdin], [], [], POLL_SECONDS)[0])  # at its end: the run let go, or died
    return 1


class _Upload:
    """One pass over what is new in a record."""

    def __init__(self, folder: Path, cursor: Cursor, say: Callable[[str], None]) -> None:
        self.folder, self.cursor, self.say = folder, cursor, say
        self.client = connect(cursor.uri)

    def run(self, is_held: bool | None) -> Uploaded:
        lines, end = self._lines()
        has_ended = is_held is False or (is_held is None and end is not None)
        files = self._finish(end) if has_ended else 0
        return Uploaded(lines, files, has_ended, shown(self.cursor.uri))

    def _lines(self) -> tuple[int, dict[str, Any] | None]:
        """Everything but the end, which is returned with the number of lines before it."""
        from mlflow.entities import Metric

        lines, metrics, tags, reached = 0, [], {}, self.cursor.offset
        for entry, offset in record.read(self.folder / record.NAME, self.cursor.offset):
            if entry["kind"] == "end":
                self._log(metrics, tags, reached)
                return lines, entry
            if entry["kind"] == "start":
                self._begin(entry)
            values = entry.get("metrics", {})
            if len(metrics) + len(values) > MAX_METRICS:
                self._log(metrics, tags, reached)
                metrics, tags = [], {}
            metrics += [Metric(_key(name), value, entry["at_ms"], entry["step"]) for name, value in values.items()]
            tags |= {f"unit.{name}": unit for name, unit in entry.get("units", {}).items()}
            lines, reached = lines + 1, offset
        self._log(metrics, tags, reached)
        return lines, None

    def _log(self, metrics: list[Any], tags: dict[str, str], reached: int) -> None:
        if metrics:
            self.client.log_batch(self.cursor.run_id, metrics=metrics)
        if tags:
            self.client.log_batch(self.cursor.run_id, tags=_tags(tags))
        if reached > self.cursor.offset:
            self.cursor.offset = reached
            self.cursor.save(self.folder)

    def _begin(self, start: dict[str, Any]) -> None:
        """Make or find the run of this record and say what it is; all of it may be repeated."""
        from mlflow.entities import Param

        self.cursor.run_id = run_id = self._find_run(start)
        self.cursor.save(self.folder)
        params = [Param(_key(name), self._cut(name, value)) for name, value in start["params"].items()]
        for first in range(0, len(params), MAX_PARAMS):
            self.client.log_batch(run_id, params=params[first : first + MAX_PARAMS])
        shown_tags = {column: start["tags"][name] for name, column in COLUMNS.items() if name in start["tags"]}
        self.client.log_batch(run_id, tags=_tags({**shown_tags, **start["tags"]}))
        if start["dataset"].get("name") and start["dataset"].get("digest"):
            self.client.log_inputs(run_id, [_dataset_input(start["dataset"])])

    def _find_run(self, start: dict[str, Any]) -> str:
        experiment_id = self._find_experiment()
        found = self.client.search_runs([experiment_id], f"tags.`{RECORD_ID}` = '{start['id']}'")
        if found:
            return found[0].info.run_id
        tags = {RECORD_ID: start["id"]}
        return self.client.create_run(experiment_id, start["at_ms"], tags, start["name"]).info.run_id

    def _find_experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self.cursor.experiment
        found = self.client.get_experiment_by_name(name)
        if found:
            return found.experiment_id
        try:
            return self.client.create_experiment(name, artifact_root(self.cursor.uri))
        except MlflowException:  # another run may have been first
            found = self.client.get_experiment_by_name(name)
            if not found:
                raise
            return found.experiment_id

    def _cut(self, name: str, value: str) -> str:
        if len(value) > MAX_VALUE:
            self.say(f"MLflow takes {MAX_VALUE} of the {len(value)} characters of {name}; config.yaml has them all")
        return value[:MAX_VALUE]

    def _finish(self, end: dict[str, Any] | None) -> int:
        """Files, status and reason; the number of files. A run that left no end died."""
        path = self.folder / record.NAME
        said = end or {**DIED, "at_ms": int(path.stat().st_mtime * 1000)}
        files = sum(self._log_file(file) for file in self._files(end))
        tags = {name: str(said[name]) for name in ("status", "reason", "best_step") if said.get(name)}
        self.client.log_batch(self.cursor.run_id, tags=_tags(tags))
        self.client.set_terminated(self.cursor.run_id, STATUSES[said["status"]], said["at_ms"])
        self.cursor.is_complete = True
        self.cursor.save(self.folder)
        return files

    def _files(self, end: dict[str, Any] | None) -> list[Path]:
        """What the end names; without one, what describes a run and lies in its folder."""
        if end:
            described = [self.folder / name for name in end["artifacts"]]
        else:
            described = [path for path in sorted(self.folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch")]
        return [*described, *sorted((self.folder / "figures").glob("*.png")), self.folder / record.NAME]

    def _log_file(self, path: Path) -> bool:
        name = path.relative_to(self.folder) if path.is_relative_to(self.folder) else Path(path.name)
        if str(name) in self.cursor.files or not path.is_file():
            return False
        self.client.log_artifact(self.cursor.run_id, str(path), str(name.parent) if name.parent.name else None)
        self.cursor.files.append(str(name))
        self.cursor.save(self.folder)
        return True


def connect(uri: str) -> Any:
    """A client that says nothing; a SQLite file is opened by one at a time, since the first opening migrates it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    file = sqlite_file(uri)
    with _alone(file.with_name(f"{file.name}.lock")) if file else nullcontext():
        return MlflowClient(uri, uri)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """One process at a time; the system lets go for one that dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("wb") as file:
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _tags(tags: dict[str, str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(_key(name), value[:MAX_VALUE]) for name, value in tags.items()]


def _dataset_input(dataset: dict[str, str]) -> Any:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": dataset.get("source", dataset["name"])})
    described = Dataset(dataset["name"], dataset["digest"][:MAX_DIGEST], "local", source)
    return DatasetInput(described, [InputTag("mlflow.data.context", "training")])


def _key(name: str) -> str:
    return re.sub(r"[^\w.\- /:]", "_", name)[:MAX_KEY]


def _reason(error: BaseException) -> str:
    """The first line of what lies at the bottom: "connection refused" rather than a page about it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__


def _say(text: str) -> None:
    with suppress(OSError):  # the run that listened may be gone
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(follow(Path(sys.argv[1])))
