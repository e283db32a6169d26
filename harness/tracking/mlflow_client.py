"""Client of an MLflow store. Every call may be repeated: it changes nothing the second time."""

import json
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials, hide_credentials_in_text
from harness.core.errors import ConfigError, DamageError
from harness.core.files import FileLock
from harness.tracking.runs_page import OWN_COLUMNS, VIEW_TAG, add_view_columns, make_experiment_tags
from harness.tracking.sqlite_store import open_sqlite_store
from harness.tracking.store_uri import artifact_root, default_store_uri, restore_credentials, sqlite_path

# Defaults for variables that the user has not set.
CLIENT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a retried "create run" could create two; we search before we retry
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds
}

MLFLOW_DEFAULT_ID = "0"  # of the experiment "Default" that MLflow puts into a new store
RECORD_ID_TAG = "harness.record_id"
PARENT_TAG = "mlflow.parentRunId"
USER_TAG = "mlflow.user"
TABLES_TAG = "mlflow.loggedArtifacts"
# Limits of MLflow's API: metrics per call and characters.
MAX_METRICS_PER_BATCH, MAX_VALUE_LENGTH, MAX_KEY_LENGTH, MAX_DIGEST_LENGTH = 1000, 6000, 250, 36

N_SHOWN_DIGITS = 6  # of the id of a record, in the name of a run

Point = tuple[str, float, int, int]  # (metric name, value, timestamp in milliseconds, step)


class UploadError(Exception):
    """The store did not accept everything. What it accepted is recorded, so that the upload can be repeated."""


@dataclass
class LogBatch:
    """Everything that one call logs to a run."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: list[Point] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class TrackingClient:
    """The MLflow store at `uri`. Runs are identified by the id of their local record."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._mlflow = connect_to_store(uri)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def find_run(self, experiment: str, record_id: str) -> str | None:
        """Return the run id of a record, None if it has not been created."""
        if record_id not in self._runs:
            experiments = [self.get_or_create_experiment(experiment)]
            found = self._mlflow.search_runs(experiments, f"tags.`{RECORD_ID_TAG}` = '{record_id}'")
            if not found:
                return None
            self._runs[record_id] = found[0].info.run_id
        return self._runs[record_id]

    def get_or_create_run(self, experiment: str, record_id: str, name: str, at_ms: int, user: str | None = None) -> str:
        """Return the run id of a record; create the run, started at `at_ms` by `user`, if there is none.

        If another record has a run of this name, as where two people sweep under one, part of the id is added to it.
        """
        run_id = self.find_run(experiment, record_id)
        if run_id is None:
            experiment_id = self.get_or_create_experiment(experiment)
            if self._has_run_named(name, experiment_id):
                name = f"{name} #{record_id[:N_SHOWN_DIGITS]}"
            tags = {RECORD_ID_TAG: record_id, **({USER_TAG: user} if user else {})}
            run_id = self._mlflow.create_run(experiment_id, at_ms, tags, name).info.run_id
            self._runs[record_id] = run_id
        return run_id

    def _has_run_named(self, name: str, experiment_id: str) -> bool:
        quote = '"' if "'" in name else "'"
        if quote in name or "\\" in name:  # which MLflow's filters cannot express
            return False
        query = f"attributes.run_name = {quote}{name}{quote}"
        return bool(self._mlflow.search_runs([experiment_id], query, max_results=1))

    def get_or_create_experiment(self, name: str, columns: Sequence[str] = OWN_COLUMNS) -> str:
        """Return the id of an experiment; create it, with a view that has these columns, if there is none."""
        if name not in self._experiments:
            found = self._mlflow.get_experiment_by_name(name)
            self._experiments[name] = found.experiment_id if found else self._create_experiment(name, columns)
        return self._experiments[name]

    def show_columns(self, name: str, columns: Sequence[str]) -> None:
        """Add columns to the view that we saved in an experiment; views and experiments of others are not changed."""
        experiment_id = self.get_or_create_experiment(name, columns)
        saved = self._mlflow.get_experiment(experiment_id).tags.get(VIEW_TAG)
        extended = add_view_columns(saved, columns) if saved else saved
        if extended != saved:
            self._mlflow.set_experiment_tag(experiment_id, VIEW_TAG, extended)

    def _create_experiment(self, name: str, columns: Sequence[str]) -> str:
        from mlflow.exceptions import MlflowException

        tags = make_experiment_tags(time.time_ns() // 1_000_000, columns)
        with _lock_store(self.uri):
            if columns == OWN_COLUMNS and self._has_unused_default():
                self._mlflow.rename_experiment(MLFLOW_DEFAULT_ID, name)
                for key, value in tags.items():
                    self._mlflow.set_experiment_tag(MLFLOW_DEFAULT_ID, key, value)
                return MLFLOW_DEFAULT_ID
        try:
            return self._mlflow.create_experiment(name, artifact_root(self.uri), tags)
        except MlflowException:  # another process may have created it
            found = self._mlflow.get_experiment_by_name(name)
            if not found:
                raise
            return found.experiment_id

    def _has_unused_default(self) -> bool:
        """Return whether this is our default store, and nobody has used the experiment that MLflow puts into it.

        The experiment of our own training takes its place, so that the UI does not list an empty one. In other stores
        `mlflow.start_run()` of the user's programs goes there.
        """
        from mlflow.entities import ViewType

        if self.uri != default_store_uri():
            return False
        default = self._mlflow.get_experiment(MLFLOW_DEFAULT_ID)
        ours = f"{artifact_root(self.uri)}/{MLFLOW_DEFAULT_ID}"  # whoever creates a store sets this
        if (default.name, default.artifact_location, default.lifecycle_stage) != ("Default", ours, "active"):
            return False
        return not self._mlflow.search_runs([MLFLOW_DEFAULT_ID], run_view_type=ViewType.ALL, max_results=1)

    def read_params(self, run_id: str) -> dict[str, str]:
        """Return the parameters of a run, which MLflow does not let change."""
        return self._mlflow.get_run(run_id).data.params

    def log_batch(self, run_id: str, batch: LogBatch) -> None:
        """Log parameters, metrics and tags; long values are truncated."""
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(name, value[:MAX_VALUE_LENGTH]) for name, value in _name_distinctly(batch.params).items()]
        metrics = [Metric(sanitize_key(name), value, at_ms, step) for name, value, at_ms, step in batch.metrics]
        tags = [RunTag(sanitize_key(name), value[:MAX_VALUE_LENGTH]) for name, value in batch.tags.items()]
        self._mlflow.log_batch(run_id, metrics, params, tags)

    def log_dataset(self, run_id: str, dataset: dict[str, str]) -> None:
        """Log the training data by its name, digest and source."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": dataset.get("source", dataset["name"])})
        entity = Dataset(dataset["name"], dataset["digest"][:MAX_DIGEST_LENGTH], "local", source)
        self._mlflow.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Upload a file to the run's artifacts; it replaces one of the same name."""
        self._mlflow.log_artifact(run_id, str(path), folder)

    def log_text(self, run_id: str, text: str, name: str) -> None:
        """Upload a text as an artifact; it replaces one of the same name."""
        self._mlflow.log_text(run_id, text, name)

    def log_table(self, run_id: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        """Upload a table that the UI can display; it replaces one of the same name (MlflowClient's would append)."""
        self._mlflow.log_dict(run_id, {"columns": list(columns), "data": [list(row) for row in rows]}, name)
        tables = json.loads(self._mlflow.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
        table = {"path": name, "type": "table"}
        if table not in tables:
            self._mlflow.set_tag(run_id, TABLES_TAG, json.dumps([*tables, table]))

    def end_run(self, run_id: str, status: str, at_ms: int) -> None:
        """Set MLflow's status and the end time of a run."""
        self._mlflow.set_terminated(run_id, status, at_ms)

    def set_status(self, run_id: str, status: str) -> None:
        """Set MLflow's status of a run that has not ended."""
        self._mlflow.update_run(run_id, status)

    def reopen_run(self, run_id: str, stale_tags: Collection[str] = (), stale_prefix: str | None = None) -> None:
        """Set the status of a run to running, and delete these tags, and those with this prefix."""
        self.set_status(run_id, "RUNNING")
        for name in self._mlflow.get_run(run_id).data.tags if stale_tags else ():
            if name in stale_tags or (stale_prefix is not None and name.startswith(stale_prefix)):
                self._mlflow.delete_tag(run_id, name)

    def count_points(self, run_id: str) -> Counter[tuple[str, int]]:
        """Count the points of a run by metric and step."""
        names = self._mlflow.get_run(run_id).data.metrics
        histories = (self._mlflow.get_metric_history(run_id, name) for name in names)
        return Counter((point.key, point.step) for history in histories for point in history)

    def delete_run(self, run_id: str) -> None:
        """Move a run to MLflow's trash; one that is not there any more is left alone."""
        from mlflow.exceptions import MlflowException

        try:
            self._mlflow.delete_run(run_id)
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
        self._runs = {record: known for record, known in self._runs.items() if known != run_id}


def connect_to_store(uri: str) -> Any:
    """Return a silent MlflowClient; credentials that `uri` lacks come from the environment.

    One process at a time opens a SQLite file, because the first one migrates it.

    Raises:
        DamageError: If the file is only half made.
    """
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    uri, file = restore_credentials(uri), sqlite_path(uri)
    with _lock_store(uri):
        return open_sqlite_store(uri, file) if file else MlflowClient(uri, uri)


def _lock_store(uri: str) -> AbstractContextManager[object]:
    """Return a lock of a SQLite store, a context without effect for any other store."""
    file = sqlite_path(uri)
    return FileLock(file.with_name(f"{file.name}.lock"), required=False) if file else nullcontext()


@contextmanager
def convert_errors(uri: str) -> Iterator[None]:
    """Turn any exception of a backend into an UploadError that names the store and the cause."""
    try:
        yield
    except (UploadError, DamageError, ConfigError):
        raise
    except Exception as error:
        store, cause = hide_credentials(uri), describe_root_cause(error, uri)
        raise UploadError(f"upload to MLflow at {store} failed: {cause}") from error


def sanitize_key(name: str) -> str:
    """Return `name` with the characters, the length and, as it may become a path, the parts that MLflow accepts."""
    text = re.sub(r"[^\w.\- /:]", "_", name)[:MAX_KEY_LENGTH]
    return "/".join(part for part in text.split("/") if part.strip(".")) or "_"


def _name_distinctly(params: Mapping[str, str]) -> dict[str, str]:
    """Return parameters by the names that MLflow accepts, numbered where two of another program become one."""
    named: dict[str, str] = {}
    for name, value in params.items():
        key = first = sanitize_key(name)
        number = 1
        while key in named:
            number += 1
            key = f"{first[: MAX_KEY_LENGTH - 5]}_{number}"
        named[key] = value
    return named


def describe_root_cause(error: BaseException, uri: str) -> str:
    """Return the first line of the innermost exception of the store at `uri`, such as "connection refused"."""
    while error.__context__ is not None:
        error = error.__context__
    text = str(error).partition("\n")[0] or type(error).__name__
    return hide_credentials_in_text(text, restore_credentials(uri))
