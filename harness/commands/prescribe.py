"""plateau prescribe RUN: turn the diagnosis of a run into a sweep, or into a longer run."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.commands.arguments import CommandParser, add_run, add_threshold_option, parse_option
from harness.core.errors import ConfigError
from harness.core.formatting import format_duration
from harness.core.paths import project_dir, run_command
from harness.core.terminal import fit_record, paragraph_width, wrap_text
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.history import History
from harness.diagnosis.prescription import Prescription, prescribe
from harness.diagnosis.thresholds import parse_thresholds
from harness.importers.programs import native
from harness.record import metrics_file
from harness.record.lr_range_file import (
    RangeTest,
    add_data_digest,
    describe_difference,
    find_range_test,
    read_range_tests,
)
from harness.record.run_lookup import find_run
from harness.record.trial_record import check_own_run
from harness.run.reproduce import keep_accepted_suggestions, name_followup_study, reproduce_overrides
from harness.sweep.programs.training.request import compose_sweep_request

MAX_DIFFERENCES = 5  # shown between a run and a range test


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau prescribe", description=__doc__)
    add_run(parser)
    add_threshold_option(parser)
    args = parser.parse_args(arguments)
    thresholds = parse_option("--threshold", parse_thresholds, args.threshold)
    folder = find_run(args.run, args.output_dir, "RUN")
    check_own_run(folder, "RUN")
    record = folder / metrics_file.METRICS_FILE
    if not record.is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(f"RUN: {folder} has no {record.name} and config.yaml of a run; try diagnose for other logs")
    history, start = parse_option("RUN", native.read_native, record), native.read_start_entry(record)
    diagnoses = keep_accepted_suggestions(folder, diagnose(history, thresholds))
    print(history.facts.name)
    for diagnosis in diagnoses:
        print(fit_record(f"  {diagnosis.kind} ({diagnosis.confidence:.0%}): {diagnosis.reason}"))
    if not diagnoses:
        conclusion = assess(history, thresholds).conclusion
        print(fit_record(f"  {conclusion}; a sweep of the LR shows whether there is room for improvement"))
    params, overrides = start["params"], reproduce_overrides(folder)
    outputs = project_dir() / params.get("output_dir", "outputs")
    identity = add_data_digest(params, start["dataset"])
    test = find_range_test(outputs, identity)
    print(*describe_range_test(test, outputs, identity, overrides), sep="\n")
    prescription = prescribe(history, diagnoses, params, test.band if test else None)
    cost = estimate_run_cost(record, history)
    print(*describe_prescription(prescription, overrides, history.facts.name, cost), sep="\n")
    return int(bool(prescription.refusal))


def describe_range_test(
    test: RangeTest | None, outputs: Path, params: Mapping[str, str], overrides: Sequence[str]
) -> Iterator[str]:
    """Yield what the range test of this configuration found, or how to run one."""
    if test and test.band:
        yield fit_record(f"range test {test.folder.name}: {test.reason}")
        yield fit_record(f"  evidence {test.band.evidence}")
        return
    if test:
        yield fit_record(f"range test {test.folder.name}: no LR range: {test.reason}")
        return
    yield fit_record("range test: none of this configuration, so the LR range is a guess; for one that is measured run")
    yield f"  {shlex.join(['plateau', 'lr-range', *overrides])}"
    latest = next(read_range_tests(outputs), None)
    if latest:
        *shown, last = describe_difference(latest, params)[: MAX_DIFFERENCES + 1]
        differences = ", ".join([*shown, "…" if len(shown) == MAX_DIFFERENCES else last])
        yield fit_record(f"  the latest one, {latest.folder.name}, had {differences}")


@dataclass(frozen=True)
class RunCost:
    """Number and median duration of a run's steps and evaluations."""

    steps: int
    evals: int
    seconds_per_step: float
    seconds_per_eval: float

    @property
    def total_seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.evals * self.seconds_per_eval


def estimate_run_cost(path: Path, history: History) -> RunCost | None:
    """Estimate the cost of a whole run like the recorded one, without the steps it was resumed from.

    None if the recorded run ended before its first evaluation or was not measured.
    """
    first = native.read_start_entry(path)["effective"]["first_step"]
    end = next((entry for entry, _ in metrics_file.read_entries(path) if entry["kind"] == "end"), None)
    steps_per_second, evals = history["perf/steps_per_second"].values, len(history["val/loss"])
    if end is None or not len(steps_per_second) or not evals:
        return None
    steps, done = (history.facts.total_steps or end["step"]) - first, end["step"] - first
    seconds_per_step = median(1 / steps_per_second)
    seconds_per_eval = max(0.0, end["seconds"] - seconds_per_step * done) / evals
    return RunCost(steps, round(evals * steps / done), seconds_per_step, seconds_per_eval)


def describe_prescription(
    prescription: Prescription, overrides: Sequence[str], run: str, cost: RunCost | None
) -> Iterator[str]:
    """Yield the reasons, the command to type, and its cost. `overrides` reproduce the run."""
    if prescription.refusal:
        yield fit_record(f"no sweep: {prescription.refusal}; first")
        yield shlex.join(["plateau", "preflight", *overrides])
        return
    parts = [*prescription.ranges, *prescription.settings]
    width = max((len(part.override) for part in parts), default=0)
    for part in parts:
        yield from wrap_text(part.why, paragraph_width(), f"  {part.override:<{width}}  ", " " * 6)
    yield from map(fit_record, prescription.notes)
    settings = [part.override for part in prescription.settings]
    replaced = {part.key for part in parts}
    kept = [override for override in overrides if override.partition("=")[0] not in replaced]
    if not prescription.ranges:
        yield shlex.join([*run_command(), *kept, *settings])
        seconds = f"; the last one took {format_duration(cost.total_seconds)}" if cost else ""
        twice = ", this one takes twice that" * bool(cost and settings)
        yield fit_record(f"one run instead of a sweep{seconds}{twice}")
        return
    command = [*kept, *settings, "sweeps=none", *(part.override for part in prescription.ranges)]
    command += [f"sweep.n_trials={prescription.n_trials}", f"sweep.study={name_followup_study(run)}"]
    n_jobs = compose_sweep_request(command).workers.n_jobs
    yield shlex.join([*run_command(), "-m", *command])
    yield fit_record(_describe_sweep_cost(prescription.n_trials, n_jobs, cost, is_longer=bool(settings)))


def _describe_sweep_cost(n_trials: int, n_jobs: int, cost: RunCost | None, is_longer: bool) -> str:
    workers = f"{n_trials} trials by {n_jobs} worker{'s' * (n_jobs > 1)}"
    if cost is None:
        return f"{workers}; sweep.dry_run=true measures the cost of one"
    seconds = math.ceil(n_trials / n_jobs) * cost.total_seconds * (2 if is_longer else 1)
    return (
        f"{workers}, each like this run: {cost.steps} steps of {cost.seconds_per_step:.3g} s and {cost.evals} "
        f"evaluations of {cost.seconds_per_eval:.3g} s{', twice' * is_longer}; at most {format_duration(seconds)} in "
        "all, less with pruning"
    )
