"""python -m harness prescribe RUN: the sweep, or the longer run, that follows from what is wrong with a run."""

import argparse
import math
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.commands.diagnose import load_thresholds
from harness.core.errors import ConfigError
from harness.core.paths import project_dir
from harness.diagnosis import diagnose
from harness.diagnosis.history import History
from harness.diagnosis.prescription import Prescription, prescribe
from harness.importers import native
from harness.observers.console import format_duration
from harness.record import metrics_file
from harness.record.run_lookup import find_run
from harness.run.reproduce import keep_accepted_overrides, name_followup_study, reproduce_overrides
from harness.sweep.request import compose_sweep_request


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness prescribe", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="a run's folder or name, or its MLflow run id")
    parser.add_argument("--thresholds", default="default", metavar="NAME", help="one of conf/thresholds")
    args = parser.parse_args(arguments)
    folder = find_run(args.run, project_dir() / "outputs", "RUN")
    if not (folder / metrics_file.METRICS_FILE).is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"RUN: {folder} is no run of ours: it holds no {metrics_file.METRICS_FILE} and config.yaml; try diagnose"
        )
    limits = load_thresholds(args.thresholds)
    try:
        history, start = (
            native.read_native(folder / metrics_file.METRICS_FILE),
            native.read_start_entry(folder / metrics_file.METRICS_FILE),
        )
    except ValueError as error:
        raise ConfigError(f"RUN: {error}") from error
    diagnoses = keep_accepted_overrides(folder, diagnose(history, limits))
    prescription, typed = prescribe(history, diagnoses, start["params"]), reproduce_overrides(folder)
    lines = describe_prescription(
        prescription, typed, history.facts.name, estimate_run_cost(folder / metrics_file.METRICS_FILE, history)
    )
    print(*_describe_diagnoses(history, diagnoses), *lines, sep="\n")
    return int(bool(prescription.refusal))


@dataclass(frozen=True)
class RunCost:
    """What a run took: of `steps` and `evals` each so many seconds."""

    steps: int
    evals: int
    seconds_per_step: float
    seconds_per_eval: float

    @property
    def total_seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.evals * self.seconds_per_eval


def estimate_run_cost(path: Path, history: History) -> RunCost | None:
    """Of a whole run such as the one whose record this is, without what it went on from; None where it ended before it
    could be measured."""
    first = native.read_start_entry(path)["effective"]["first_step"]
    end = next((entry for entry, _ in metrics_file.read_entries(path) if entry["kind"] == "end"), None)
    paces, evals = history["perf/steps_per_second"].values, len(history["val/loss"])
    if end is None or not len(paces) or not evals:
        return None
    steps, taken = history.facts.total_steps - first, end["step"] - first
    of_step = median(1 / paces)
    of_eval = max(0.0, end["seconds"] - of_step * taken) / evals
    return RunCost(steps, round(evals * steps / taken), of_step, of_eval)


def describe_prescription(
    prescription: Prescription, typed: Sequence[str], run: str, spent: RunCost | None
) -> Iterator[str]:
    """Why, what to type, and what it will cost."""
    if prescription.refusal:
        yield f"no sweep: {prescription.refusal}"
        yield f"first: {shlex.join(['python', '-m', 'harness', 'preflight', *typed])}"
        return
    parts = [*prescription.ranges, *prescription.settings]
    width = max((len(part.override) for part in parts), default=0)
    yield from (f"  {part.override:<{width}}  {part.why}" for part in parts)
    yield from prescription.notes
    settings = [part.override for part in prescription.settings]
    kept = [one for one in typed if one.partition("=")[0] not in {part.key for part in parts}]
    if not prescription.ranges:
        yield shlex.join(["python", "run.py", *kept, *settings])
        yield f"one run instead of a sweep{_describe_cost(spent, longer=bool(settings))}"
        return
    wanted = [*kept, *settings, "sweeps=none", *(part.override for part in prescription.ranges)]
    wanted += [f"sweep.n_trials={prescription.n_trials}", f"sweep.study={name_followup_study(run)}"]
    asked = compose_sweep_request(wanted)
    yield shlex.join(["python", "run.py", "-m", *wanted])
    yield _describe_sweep_cost(prescription.n_trials, asked.n_jobs, spent, longer=bool(settings))


def _describe_diagnoses(history: History, diagnoses: Sequence) -> Iterator[str]:
    yield history.facts.name
    yield from (f"  {diagnosis.kind} ({diagnosis.confidence:.0%}): {diagnosis.reason}" for diagnosis in diagnoses)
    if not diagnoses:
        yield "  no diagnosis asks for a change; a sweep of the LR shows whether there is more to have"


def _describe_cost(spent: RunCost | None, longer: bool) -> str:
    if spent is None:
        return ""
    return f"; the last took {format_duration(spent.total_seconds)}{', this one twice that' if longer else ''}"


def _describe_sweep_cost(n_trials: int, n_jobs: int, spent: RunCost | None, longer: bool) -> str:
    workers = f"{n_trials} trials by {n_jobs} worker{'s' * (n_jobs > 1)}"
    if spent is None:
        return f"{workers}; what one costs is told by sweep.dry_run=true"
    seconds = spent.total_seconds * (2 if longer else 1)
    return (
        f"{workers}, each as this run: {spent.steps} steps of {spent.seconds_per_step:.3g} s and {spent.evals} evaluations of "
        f"{spent.seconds_per_eval:.3g} s{', twice' if longer else ''}; in all at most "
        f"{format_duration(math.ceil(n_trials / n_jobs) * seconds)}, less what is pruned"
    )
