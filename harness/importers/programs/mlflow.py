"""A run in an MLflow store, recorded by this harness or by any other program."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.core.credentials import hide_credentials, hide_credentials_in_text, hide_secret_settings
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import DamageError
from harness.diagnosis.history import SECONDS, History, RunFacts
from harness.diagnosis.run_facts import CONSTANT_PREFIX, extract_run_facts, select_provenance
from harness.importers.metric_aliases import MetricPoints, build_history
from harness.importers.named_values.curves import Moment, NamedCurves
from harness.importers.named_values.output_reader import name_field
from harness.importers.named_values.value_names import ValueName
from harness.importers.programs.lr_schedules import schedule_from_params
from harness.importers.programs.param_facts import read_param_facts
from harness.record.metrics_file import METRICS_FILE, read_entries
from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.run_uploader import EFFECTIVE_TAG, OBJECTIVE, SWEEP_TAG, is_charted
from harness.tracking.store_uri import find_store_uris, restore_credentials, sqlite_path

RUN_STATUSES = {"FINISHED": "completed", "FAILED": "failed", "KILLED": "interrupted"}

TRANSFORMERS_PARAM = "per_device_train_batch_size"  # the Trainer logs all of its TrainingArguments
DATA_TAG_PREFIX = "data."  # of the tags that hold what a task says of its data
EPOCH_PARAMS = ("num_train_epochs", "max_epochs", "epochs", "num_epochs", "n_epochs")
MAX_RUNS = 1_000
WAIT_FACTOR, MIN_WAIT_SECONDS = 10, 2.0
"""A store is asked again after so long, in units of the time that the answer took, and at least."""


def read_mlflow_run(run_id: str, uri: str | None) -> History | None:
    """Read a run of the store at `uri`, by default that of the current folder or the project; None if it is not there.

    Raises:
        ValueError: If `uri` is not the address of a store, the store fails, or no metric of the run names a loss.
    """
    for store in find_store_uris(uri):
        file = sqlite_path(store)
        if file and not file.exists():  # connecting would create it
            return None
        client, run = _find_run(run_id, store)
        if run is not None:
            return _read_run(client, run, store)
    return None


def _read_run(client: Any, run: Any, uri: str) -> History:
    run_id = run.info.run_id
    recorded = {name: _read_metric(client, run_id, name) for name in run.data.metrics}
    points = {name: _to_points(metrics) for name, metrics in recorded.items() if not _is_objective(run, name)}
    if EFFECTIVE_TAG in run.data.tags:  # a run of ours
        points |= _read_uncharted_points(client, run_id)
    history = build_history(points, _read_facts(run, points))
    if not len(history["train/loss"]) and not len(history["val/loss"]):
        names = ", ".join(sorted(points)) or "none"
        raise ValueError(f"{run_id}: no metric of this MLflow run names a loss; its metrics: {names}")
    history.add_points(SECONDS, _find_seconds(run, recorded.values()))
    count = sum(map(len, points.values()))
    source = f"MLflow run {run_id} at {hide_credentials(uri)}: {count} points of {len(points)} metrics"
    history.facts = replace(history.facts, source=source)
    return history


def _is_objective(run: Any, metric: str) -> bool:
    """Return whether a sweep recorded this metric as the objective of a program's trial, whose meaning is unknown."""
    return SWEEP_TAG in run.data.tags and metric.partition("/")[0] == OBJECTIVE


def _find_run(run_id: str, uri: str) -> tuple[Any, Any]:
    """Return the client and the run, None if the store has no such run."""
    from mlflow.exceptions import MlflowException

    client = connect_to_store(uri)
    try:
        return client, client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return client, None
        reason = hide_credentials_in_text(str(error).partition("\n")[0], restore_credentials(uri))
        raise ValueError(f"--uri: MLflow at {hide_credentials(uri)}: {reason}") from error


def _read_metric(client: Any, run_id: str, name: str) -> list[Any]:
    """Return the points of a metric in the order in which they were recorded."""
    return sorted(client.get_metric_history(run_id, name), key=lambda metric: (metric.timestamp, metric.step))


def _to_points(recorded: Sequence[Any]) -> list[tuple[int, float]]:
    """Return (step, value) points; steps may repeat after a rollback."""
    return [(metric.step, _restore_infinity(metric.value)) for metric in recorded]


def _find_seconds(run: Any, recorded: Iterable[Sequence[Any]]) -> list[tuple[int, float]]:
    """Return when each step was recorded, in seconds since the start of the run."""
    times = sorted((metric.timestamp, metric.step) for metrics in recorded for metric in metrics)
    return [(step, (time - run.info.start_time) / 1000) for time, step in times]


def _read_uncharted_points(client: Any, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return the points that only metrics.jsonl has, which is among the artifacts once the run has ended."""
    from mlflow.exceptions import MlflowException

    points: dict[str, list[tuple[int, float]]] = {}
    with TemporaryDirectory() as folder:
        try:
            path = Path(client.download_artifacts(run_id, METRICS_FILE, folder))
            entries = list(read_entries(path))
        except (MlflowException, OSError, DamageError):  # the curves are enough for most diagnoses
            return {}
    for entry, _ in entries:
        for name, value in entry.get("metrics", {}).items():
            if not is_charted(name):
                points.setdefault(name, []).append((entry["step"], value))
    return points


def _restore_infinity(value: float) -> float:
    """Return infinity for the largest double, which stands for it in MLflow's SQL stores."""
    return math.copysign(math.inf, value) if abs(value) == sys.float_info.max else value


def _read_facts(run: Any, points: MetricPoints) -> RunFacts:
    params, tags, name = run.data.params, run.data.tags, run.info.run_name
    status = tags.get("status") or RUN_STATUSES.get(run.info.status)
    took = (run.info.end_time - run.info.start_time) / 1000 if run.info.end_time else None
    found: dict[str, Any] = {"seconds": took, "provenance": select_provenance(tags)}
    if EFFECTIVE_TAG in tags:
        constants = {
            name.removeprefix(CONSTANT_PREFIX): float(value)
            for name, value in params.items()
            if name.startswith(CONSTANT_PREFIX)
        }
        effective = EffectiveSettings.from_json(json.loads(tags[EFFECTIVE_TAG]))
        dataset = {key.removeprefix(DATA_TAG_PREFIX): tag for key, tag in tags.items()}
        facts = extract_run_facts(name, params, effective, constants, dataset)
        return replace(facts, program="harness", status=status, unit=tags.get("unit.val/loss"), **found)
    numbers = read_param_facts(params)
    total_steps = numbers.get("total_steps")
    if total_steps is None and status == "completed":
        total_steps = max((step for recorded in points.values() for step, _ in recorded), default=0)
    program = "transformers" if TRANSFORMERS_PARAM in params else None
    numbers |= schedule_from_params(params, total_steps) | found | {"settings": hide_secret_settings(params) or None}
    return RunFacts(name=name, program=program, status=status, **numbers)


class TaggedRunSource:
    """The run with a tag in the store at `uri`, or the one in a store of its own, read while a program logs to it."""

    def __init__(self, uri: str, tag: str, value: str, is_own_store: bool) -> None:
        self._uri, self._tag, self._value, self._is_own_store = uri, tag, value, is_own_store
        self._curves = NamedCurves()
        self._next_time = 0.0

    def read(self, is_final: bool) -> NamedCurves:
        """Return the curves of all metrics of the run.

        Raises:
            ValueError: At the end, if there is no run with the tag, or the store fails.
        """
        if not is_final and time.monotonic() < self._next_time:
            return self._curves
        started = time.monotonic()
        try:
            self._read_runs(is_final)
        except Exception as error:
            if is_final:
                reason = hide_credentials_in_text(str(error).partition("\n")[0], self._uri)
                raise ValueError(f"--read: MLflow at {hide_credentials(self._uri)}: {reason}") from error
        self._next_time = time.monotonic() + max(MIN_WAIT_SECONDS, WAIT_FACTOR * (time.monotonic() - started))
        return self._curves

    def _read_runs(self, is_final: bool) -> None:
        file = sqlite_path(self._uri)
        if file and not file.exists() and not is_final:  # connecting would create it
            return
        client = connect_to_store(self._uri)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        found = client.search_runs(experiments, f"tags.`{self._tag}` = '{self._value}'", max_results=MAX_RUNS)
        if not found and self._is_own_store:  # runs that MlflowClient created have no tags from the environment
            found = client.search_runs(experiments, max_results=MAX_RUNS)
        if not found and is_final:
            raise ValueError(
                "the program logged no run there; if it calls set_tracking_uri, name the same store: --read mlflow:URI"
            )
        curves = NamedCurves()
        for run in found:
            find_share = _find_shares(client, run)
            for name in run.data.metrics:
                is_shared = sum(name in other.data.metrics for other in found) > 1
                value_name = ValueName(f"{run.info.run_name}/{name}", None, (name,)) if is_shared else name_field(name)
                curve = curves.find_or_add(value_name)
                for step, value in _to_points(_read_metric(client, run.info.run_id, name)):
                    if curve is not None:
                        curve.add(value, Moment(step, find_share(step)))
        self._curves = curves


def _find_shares(client: Any, run: Any) -> Callable[[int], float | None]:
    """Return the function from a step to the share of the run, as far as parameters say how long it is."""
    total = read_param_facts(run.data.params).get("total_steps")
    if total:
        return lambda step: min(1.0, step / total)
    epochs = max((_parse_count(run.data.params.get(name)) for name in EPOCH_PARAMS), default=0.0)
    if not epochs or "epoch" not in run.data.metrics:
        return lambda step: None
    by_step = dict(_to_points(_read_metric(client, run.info.run_id, "epoch")))
    return lambda step: min(1.0, by_step[step] / epochs) if step in by_step else None


def _parse_count(text: str | None) -> float:
    try:
        return float(text or 0)
    except ValueError:
        return 0.0
