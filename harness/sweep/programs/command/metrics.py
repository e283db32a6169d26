"""The metric of a trial of any program: read from its output or its files while it runs, and at its end."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from harness.importers.metric_aliases import Meaning, name_meaning
from harness.importers.named_values.curves import CurvePoint, NamedCurve, NamedCurves
from harness.importers.named_values.metric_lookup import (
    FoundMetric,
    MetricError,
    find_metric,
    find_named_metric,
    find_validation_loss,
    has_name,
    looks_like_metric,
)
from harness.importers.named_values.value_names import show_name
from harness.importers.named_values.value_sources import (
    FileSource,
    ValueSource,
    find_source_path,
    read_validation_loss,
)
from harness.tracking.run_context import TRIAL_FOLDER_TAG, add_run_context, read_run_context

MLFLOW_SOURCE = "mlflow"
VALIDATION_LOSS = Meaning("val/loss")
MLFLOW_FILE = "mlflow.db"  # in the folder of a trial, for programs that log to no store of the user
TRACKING_VARIABLE = "MLFLOW_TRACKING_URI"


@dataclass(frozen=True)
class MetricSpec:
    """Which metric of a program is the objective, and where it is read. Without sources it is the output.

    A source is a file, a folder of event files or of a transformers Trainer, `mlflow` or `mlflow:URI`.
    """

    metric: str | None = None
    sources: tuple[str, ...] = ()
    pick: Literal["final", "best"] = "final"
    direction: Literal["minimize", "maximize"] = "minimize"


@dataclass(frozen=True)
class MetricValue:
    """The objective of a trial: its value, which may be NaN or infinite, where it was measured, and its name.

    `note` says what the user should know if the metric was not named.
    """

    value: float
    step: int
    name: str
    note: str = ""


class MetricReader:
    """Reads the metric of one trial, whose output is the file `output` in the trial's folder.

    `environment` is that of the program, `trial_environment` included; it says where the program logs to MLflow.
    """

    def __init__(self, spec: MetricSpec, output: Path, environment: Mapping[str, str] = os.environ) -> None:
        self._spec = spec
        self._names = spec.sources or (str(output),)
        self._sources: list[ValueSource] = [FileSource(str(output), is_output=True)]
        if spec.sources:
            self._sources = [_open_source(name, output.parent, environment) for name in spec.sources]
        self._reported: tuple[str, int] = ("", 0)  # name of the curve that was read last, and how much of it
        self._taken: dict[str, int] = {}  # number of points by key
        self._final_curves: NamedCurves | None = None

    def read_new_points(self, is_final: bool = False) -> list[CurvePoint]:
        """Read what the program has written since the last call; return the new points of the metric.

        Without a named metric these are those of the validation loss. There are none while the metric is not there.

        Args:
            is_final: Whether the program has ended with a result, so that everything can be read.

        Raises:
            ValueError: If a source cannot be read, or is missing when it is final.
        """
        curves = self._read_sources(is_final)
        try:
            named = self._spec.metric
            curve = find_validation_loss(curves) if named is None else find_named_metric(curves, named, "").curve
        except MetricError:
            return []
        if curve is None or curve.is_setting:
            return []
        key, start = self._reported
        if key != curve.name.key or len(curve) < start:  # another name says it more directly, or a file was replaced
            start = 0
        self._reported = curve.name.key, len(curve)
        return list(curve.iterate_points(start))

    def read_new_curves(self, is_final: bool = False) -> dict[str, list[CurvePoint]]:
        """Return the points of all curves that were read since the last call, by name, for the record of the trial.

        Losses, LR and gradient norm have our names; the first name that stands for one of these gets it. A setting,
        and a number that was printed once and has no name of a metric, is none.

        Args:
            is_final: Whether the program has ended with a result, so that everything can be read.

        Raises:
            ValueError: If a source cannot be read, or is missing when it is final.
        """
        found: dict[str, list[CurvePoint]] = {}
        taken_names: set[str] = set()
        for curve in self._read_sources(is_final):
            if curve.is_setting:
                continue
            name = curve.name.metric
            is_other = name is None or name in taken_names or bool(curve.name.qualifier)
            name = show_name(curve.name.full) if name is None or is_other else name
            taken_names.add(name)
            if len(curve) < 2 and curve.name.metric is None and not looks_like_metric(curve):
                continue
            start = self._taken.get(curve.name.key, 0)
            if points := list(curve.iterate_points(start)):
                found[name] = points
            self._taken[curve.name.key] = max(start, len(curve))
        return found

    def read_final_value(self) -> MetricValue:
        """Read what is left, after the program has ended, and return the final or the best value of the metric.

        Raises:
            MetricError: If the metric is not there or could be several; the message lists what there is.
            ValueError: If a source is missing or cannot be read.
        """
        curves = self._read_sources(is_final=True)
        found = self._find_inferred_loss(curves) or find_metric(curves, self._spec.metric, self._describe_sources())
        point = pick_point(found.curve, self._spec.pick, self._spec.direction)
        return MetricValue(point.value, point.step, found.name, found.note)

    def read_test_value(self, name: str, found: MetricValue) -> float:
        """Return the result on test data, which has a `name`, of the program whose metric is `found`, after its end.

        It is the last value or, where the metric is the best one, that of the same step if there is one: the best value
        on test data would have been chosen by test data.

        Raises:
            MetricError: If there is none, it could be several, or it is the metric itself.
        """
        curves = self._read_sources(is_final=True)
        try:
            test = find_named_metric(curves, name, self._describe_sources())
        except MetricError as error:
            raise MetricError(str(error).replace("--metric", "--test-metric")) from error
        if test.name == found.name:
            raise MetricError(f"--test-metric: {name} is what the sweep has optimized; name a result on other data")
        points = list(test.curve.iterate_points())
        same_step = [point for point in points if point.step == found.step and self._spec.pick == "best"]
        return (same_step or points)[-1].value

    def _find_inferred_loss(self, curves: NamedCurves) -> FoundMetric | None:
        """Return the validation loss that the whole log shows where no name says it, as the sum of its parts."""
        metric = self._spec.metric
        if metric is not None and (name_meaning(metric) != VALIDATION_LOSS or has_name(curves, metric)):
            return None
        if find_validation_loss(curves) is not None:
            return None
        for name in self._names:
            path = None if is_mlflow(name) else find_source_path(name)
            loss = read_validation_loss(path) if path is not None else None
            if loss is not None:
                return FoundMetric(loss, f"the objective is the validation loss as `plateau diagnose {path}` reads it")
        return None

    def _read_sources(self, is_final: bool) -> NamedCurves:
        """Return the curves of all sources; of one name, those of the first source that has it.

        After a final read the sources do not change.
        """
        if self._final_curves is None:
            curves = _merge_curves([source.read(is_final) for source in self._sources])
            self._final_curves = curves if is_final else None
            return curves
        return self._final_curves

    def _describe_sources(self) -> str:
        return " and ".join(self._names) if self._spec.sources else "the output"


def _merge_curves(read: Sequence[NamedCurves]) -> NamedCurves:
    if len(read) == 1:
        return read[0]
    merged = NamedCurves()
    for curves in read:
        merged.by_key = curves.by_key | merged.by_key
        merged.last_bare = curves.last_bare if merged.last_bare is None else merged.last_bare
    return merged


def pick_point(curve: NamedCurve, pick: str, direction: str) -> CurvePoint:
    """Return the last point of a curve, or the best one; values that are NaN are not the best unless all are."""
    points = list(curve.iterate_points())
    if pick == "final":
        return points[-1]
    known = [point for point in points if point.value == point.value] or points
    choose = min if direction == "minimize" else max
    return choose(known, key=lambda point: point.value)


def trial_environment(sources: Sequence[str], folder: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables to set for a program whose metric is read from MLflow; none for other sources.

    Every run that the program starts gets a tag. It logs to the store of `mlflow:URI`, else to that of its
    environment, else to one in the folder of the trial, which is created.
    """
    uris = [_mlflow_uri(source, folder, environment) for source in sources if is_mlflow(source)]
    if not uris:
        return {}
    value = f"{quote(str(folder.absolute()))} {time.time_ns()}"  # for each attempt; MLflow's filters escape no quotes
    if uris[0] == _own_store(folder):
        from harness.tracking.mlflow_client import connect_to_store

        folder.mkdir(parents=True, exist_ok=True)
        connect_to_store(uris[0])
    return {TRACKING_VARIABLE: uris[0], **add_run_context(environment, value)}


def is_mlflow(source: str) -> bool:
    """Return whether a source of a metric is MLflow, not a file."""
    return source == MLFLOW_SOURCE or source.startswith(f"{MLFLOW_SOURCE}:")


def _mlflow_uri(source: str, folder: Path, environment: Mapping[str, str]) -> str:
    named = source.removeprefix(MLFLOW_SOURCE).removeprefix(":")
    return named or environment.get(TRACKING_VARIABLE) or _own_store(folder)


def _own_store(folder: Path) -> str:
    return f"sqlite:///{folder.absolute() / MLFLOW_FILE}"


def _open_source(name: str, folder: Path, environment: Mapping[str, str]) -> ValueSource:
    if not is_mlflow(name):
        return FileSource(name)
    from harness.importers.programs.mlflow import TaggedRunSource

    uri = _mlflow_uri(name, folder, environment)
    value = read_run_context(environment).get(TRIAL_FOLDER_TAG, "")
    return TaggedRunSource(uri, TRIAL_FOLDER_TAG, value, uri == _own_store(folder))
