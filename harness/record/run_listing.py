"""Overviews of runs and studies, read from the ends of their files."""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.core.digests import read_json
from harness.core.errors import DamageError
from harness.core.files import is_locked
from harness.core.paths import config_dir
from harness.record.metrics_file import find_record, is_record_line, read_entries
from harness.record.run_lookup import RunFolder, read_best_trials
from harness.record.sweep_files import SUMMARY_FILE, SWEEP_FILE
from harness.record.trial_record import (
    OWN_OBJECTIVE,
    Direction,
    find_best,
    is_foreign,
    name_best_metric,
    name_curve,
    read_directions,
    read_values,
)

DAMAGED, RUNNING = "damaged", "running"
PROCESS_DIED = ("failed", "its process died")
"""Status and reason of a run or a sweep without an end whose process is gone."""
READ_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""Errors of reading what somebody else may have written."""
TAIL_BYTES = 1 << 16
TRIALS_METRIC = "sweep/trials."


@dataclass(frozen=True)
class RunOverview:
    """A run; a damaged one has the status DAMAGED and a `reason`, and what could be read of it."""

    name: str
    folder: str
    date: str
    status: str
    reason: str = ""
    step: int | None = None
    total_steps: int | None = None
    objective: str = OWN_OBJECTIVE
    best_value: float | None = None
    choice: str = ""
    """The experiment, or else the model; of a trial that another program ran, its command."""
    test_loss: float | None = None


@dataclass(frozen=True)
class StudyOverview:
    """A study with the number of its trials by status; `best_trials` has several names with several objectives."""

    name: str
    folder: str
    date: str
    status: str
    reason: str = ""
    trials: Mapping[str, int] | None = None
    objective: str = OWN_OBJECTIVE
    direction: Direction = "minimize"
    best_value: float | None = None
    best_trials: tuple[str, ...] = ()


def read_run_overview(run: RunFolder) -> RunOverview:
    """Return what is known of a run. Files that cannot be read make it a damaged one."""
    path = find_record(run.path)
    overview = RunOverview(run.name, str(run.path), run.date, DAMAGED)
    try:
        is_running = is_locked(path)  # asked before reading: a run that is not being written has written everything
        start = next((entry for entry, _ in read_entries(path)), None)
        if start is None:
            never = f"{path}: empty: the run never started"
            return replace(overview, status=RUNNING) if is_running else replace(overview, reason=never)
        objective, direction = next(iter(read_directions(start).items()))
        overview = replace(overview, choice=_describe_choice(start), objective=objective)
        if start["total_steps"] is not None:
            overview = replace(overview, total_steps=int(start["total_steps"]))
        end = _read_end(path)
        if end is None:
            step, best = _read_progress(path, name_curve(objective), direction)
            status, reason = PROCESS_DIED if is_running is False else (RUNNING, "")
        else:
            step, best = int(end["step"]), find_best([read_values(start, end).get(objective, math.nan)], direction)
            overview = replace(overview, test_loss=_read_finite(end.get("test_loss")))
            status, reason = str(end["status"]), str(end.get("reason") or "")
        return replace(overview, status=status, reason=reason, step=step, best_value=best)
    except READ_ERRORS as error:
        return replace(overview, reason=_describe_damage(path, error))


def read_study_overview(study: RunFolder) -> StudyOverview:
    """Return what is known of a study from its summary. Files that cannot be read make it a damaged one."""
    path = study.path / SUMMARY_FILE
    overview = StudyOverview(study.path.name, str(study.path), study.date, DAMAGED)
    try:
        is_running = is_locked(study.path / SWEEP_FILE)
        summary = read_json(path)
        status, reason = str(summary["status"]), str(summary.get("reason") or "")
        if is_running:
            status = RUNNING
        elif status == RUNNING and is_running is False:
            status, reason = PROCESS_DIED
        metrics = {name: float(value) for name, value in summary["metrics"].items()}
        trials = {name[len(TRIALS_METRIC) :]: int(n) for name, n in metrics.items() if name.startswith(TRIALS_METRIC)}
        trials = {status: count for status, count in trials.items() if count}
        objective, direction = next(iter(read_directions(summary).items()))
        best = find_best([metrics.get(f"sweep/{name_best_metric(objective)}", math.nan)], direction)
        overview = replace(overview, objective=objective, direction=direction, best_value=best)
        names = tuple(read_best_trials(study.path))
        return replace(overview, status=status, reason=reason, trials=trials, best_trials=names)
    except READ_ERRORS as error:
        return replace(overview, reason=_describe_damage(path, error))


def _describe_damage(path: Path, error: Exception) -> str:
    """Return why the files of a run or study could not be read."""
    if isinstance(error, DamageError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or path}: {(error.strerror or str(error)).lower()}"
    return f"{path}: not as this program writes it ({type(error).__name__}: {error})"


def _describe_choice(start: Mapping[str, Any]) -> str:
    """Return the experiment that a run's overrides chose, or else its model; another program's command."""
    if is_foreign(start):
        return str(start["tags"].get("command", ""))
    chosen: dict[str, str] = {}
    for override in start.get("overrides") or ():
        key, _, value = str(override).partition("=")
        chosen[key.lstrip("+")] = value
    target = str(start["params"].get("model._target_", ""))
    return chosen.get("experiment") or chosen.get("model") or _find_default_model(target) or target.rpartition(".")[2]


@cache
def _find_default_model(target: str) -> str:
    """Return the default option of `model`; empty if that builds something else than `target`."""
    try:
        defaults = yaml.safe_load((config_dir() / "config.yaml").read_text())["defaults"]
        name = next(entry["model"] for entry in defaults if isinstance(entry, dict) and "model" in entry)
        option = yaml.safe_load((config_dir() / "model" / f"{name}.yaml").read_text())
    except (OSError, KeyError, StopIteration, yaml.YAMLError):
        return ""
    return str(name) if option.get("_target_") == target else ""


def _read_end(path: Path) -> dict[str, Any] | None:
    """Return the last entry if it is the end of the run, None if the run has not ended.

    Raises:
        DamageError: If the last line is damaged.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
    line = tail[: -1 if tail.endswith(b"\n") else None].rpartition(b"\n")[2]
    offset = size - len(line) - tail.endswith(b"\n")
    if not tail.endswith(b"\n") and not is_record_line(line):
        return None  # still being written, or cut off
    last = next((entry for entry, _ in read_entries(path, offset)), None) if b'"end"' in line else None
    return last if last and last["kind"] == "end" else None


def _read_progress(path: Path, curve: str, direction: Direction) -> tuple[int, float | None]:
    """Return the last step of a run without an end, and the best value of a curve."""
    step, values = 0, []
    for line in _iter_metric_lines(path, curve):
        entry = json.loads(line)
        step = int(entry["step"])
        values.append(float(entry["metrics"].get(curve, math.nan)))
    return step, find_best(values, direction)


def _read_finite(value: Any) -> float | None:
    return float(value) if value is not None and math.isfinite(float(value)) else None


def _iter_metric_lines(path: Path, curve: str) -> Iterator[bytes]:
    """Yield the lines with a curve, and the last line with metrics."""
    last, quoted = b"", json.dumps(curve).encode()
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n") and line.startswith(b'{"kind": "metrics"'):
                last = line
                if quoted in line:
                    yield line
    if last:
        yield last
