"""An MLflow store in our words, and the only module that knows MLflow; all that is said may be said again."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.core.files import FileLock
from harness.tracking.store_uri import artifact_root, hide_credentials, sqlite_path

CLIENT_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a retried "create run" makes two; we look before we try again
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}
"""For the processes that upload, where the user has set nothing else."""

RECORD_ID_TAG = "harness.record_id"
PARENT_TAG = "mlflow.parentRunId"
TABLES_TAG = "mlflow.loggedArtifacts"
MAX_METRICS_PER_BATCH, MAX_VALUE_LENGTH, MAX_KEY_LENGTH, MAX_DIGEST_LENGTH = 1000, 6000, 250, 36


class UploadError(Exception):
    """The store did not take everything; what it took is kept and known."""


@dataclass
class LogBatch:
    """What one call brings to a run; a metric is its name, value, milliseconds and step."""

    params: dict[str, str] = field(default_factory=dict)
    metrics: list[tuple[str, float, int, int]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)


class TrackingClient:
    """The store at `uri`."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._mlflow = connect_to_store(uri)
        self._experiments: dict[str, str] = {}
        self._runs: dict[str, str] = {}

    def find_run(self, experiment: str, record_id: str) -> str | None:
        """The id of the run of a record, None where there is none yet."""
        if record_id not in self._runs:
            found = self._mlflow.search_runs(
                [self.get_or_create_experiment(experiment)], f"tags.`{RECORD_ID_TAG}` = '{record_id}'"
            )
            if not found:
                return None
            self._runs[record_id] = found[0].info.run_id
        return self._runs[record_id]

    def get_or_create_run(self, experiment: str, record_id: str, name: str, at_ms: int) -> str:
        """The id of the run of a record, made where there is none yet."""
        found = self.find_run(experiment, record_id)
        if found is None:
            made = self._mlflow.create_run(
                self.get_or_create_experiment(experiment), at_ms, {RECORD_ID_TAG: record_id}, name
            )
            found = self._runs[record_id] = made.info.run_id
        return found

    def get_or_create_experiment(self, name: str) -> str:
        """The id of an experiment, made where there is none yet."""
        if name not in self._experiments:
            found = self._mlflow.get_experiment_by_name(name)
            self._experiments[name] = found.experiment_id if found else self._create_experiment(name)
        return self._experiments[name]

    def _create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        try:
            return self._mlflow.create_experiment(name, artifact_root(self.uri))
        except MlflowException:  # another run may have been first
            found = self._mlflow.get_experiment_by_name(name)
            if not found:
                raise
            return found.experiment_id

    def read_params(self, run_id: str) -> dict[str, str]:
        """What was written of a run's parameters, which are written once."""
        return self._mlflow.get_run(run_id).data.params

    def log_batch(self, run_id: str, batch: LogBatch) -> None:
        from mlflow.entities import Metric, Param, RunTag

        params = [Param(sanitize_key(name), value[:MAX_VALUE_LENGTH]) for name, value in batch.params.items()]
        metrics = [Metric(sanitize_key(name), *point) for name, *point in batch.metrics]
        tags = [RunTag(sanitize_key(name), value[:MAX_VALUE_LENGTH]) for name, value in batch.tags.items()]
        self._mlflow.log_batch(run_id, metrics, params, tags)

    def log_dataset(self, run_id: str, dataset: dict[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": dataset.get("source", dataset["name"])})
        described = Dataset(dataset["name"], dataset["digest"][:MAX_DIGEST_LENGTH], "local", source)
        self._mlflow.log_inputs(run_id, [DatasetInput(described, [InputTag("mlflow.data.context", "training")])])

    def log_artifact(self, run_id: str, path: Path, folder: str | None = None) -> None:
        """Keep a file among the run's artifacts, in place of one of that name."""
        self._mlflow.log_artifact(run_id, str(path), folder)

    def log_table(self, run_id: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], name: str) -> None:
        """Keep a table that the MLflow UI shows as one, in place of one of that name (MlflowClient's adds to it)."""
        self._mlflow.log_dict(run_id, {"columns": list(columns), "data": [list(row) for row in rows]}, name)
        shown = json.loads(self._mlflow.get_run(run_id).data.tags.get(TABLES_TAG, "[]"))
        table = {"path": name, "type": "table"}
        if table not in shown:
            self._mlflow.set_tag(run_id, TABLES_TAG, json.dumps([*shown, table]))

    def end_run(self, run_id: str, status: str, at_ms: int) -> None:
        self._mlflow.set_terminated(run_id, status, at_ms)

    def reopen_run(self, run_id: str) -> None:
        """Running, whatever it was."""
        self._mlflow.update_run(run_id, "RUNNING")


def connect_to_store(uri: str) -> Any:
    """A client that says nothing; a SQLite file is opened by one at a time, since the first opening migrates it."""
    for name, value in CLIENT_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    file = sqlite_path(uri)
    with FileLock(file.with_name(f"{file.name}.lock"), required=False) if file else nullcontext():
        return MlflowClient(uri, uri)


@contextmanager
def convert_errors(uri: str) -> Iterator[None]:
    """Whatever a backend raises, as UploadFailed with the store and the cause."""
    try:
        yield
    except UploadError:
        raise
    except Exception as error:
        raise UploadError(
            f"MLflow at {hide_credentials(uri)} did not take it ({_describe_root_cause(error)})"
        ) from error


def sanitize_key(name: str) -> str:
    """`name` in the characters and the length that MLflow takes."""
    return re.sub(r"[^\w.\- /:]", "_", name)[:MAX_KEY_LENGTH]


def _describe_root_cause(error: BaseException) -> str:
    """The first line of what lies at the bottom: "connection refused" rather than a page about it."""
    while error.__context__ is not None:
        error = error.__context__
    return str(error).partition("\n")[0] or type(error).__name__
