"""plateau prescribe RUN: turn the diagnosis of a run into a sweep, or into a longer run."""

import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness.commands.arguments import CommandParser, add_run, add_threshold_option, parse_option
from harness.core.formatting import format_duration
from harness.core.paths import run_command
from harness.core.terminal import fit_record, paragraph_width, wrap_text
from harness.diagnosis.prescription import Prescription
from harness.diagnosis.thresholds import parse_thresholds
from harness.record import metrics_file
from harness.record.lr_range_file import RangeTest, describe_difference, read_range_tests
from harness.record.run_lookup import find_run
from harness.run.reproduce import name_followup_study, reproduce_overrides
from harness.sweep.programs.training.followup_sweep import (
    RunCost,
    diagnose_own_run,
    estimate_run_cost,
    list_followup_overrides,
)
from harness.sweep.programs.training.request import compose_sweep_request
from harness.sweep.request import SweepRequest

MAX_DIFFERENCES = 5  # shown between a run and a range test


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau prescribe", description=__doc__)
    add_run(parser)
    add_threshold_option(parser)
    args = parser.parse_args(arguments)
    thresholds = parse_option("--threshold", parse_thresholds, args.threshold)
    run = diagnose_own_run(find_run(args.run, args.output_dir, "RUN"), thresholds, "RUN")
    print(run.name)
    print(*(fit_record(f"  {line}") for line in run.describe_diagnoses()), sep="\n")
    overrides = reproduce_overrides(run.folder)
    print(*describe_range_test(run.find_range_test(), run.output_dir, run.data_params, overrides), sep="\n")
    prescription = run.prescribe()
    cost = estimate_run_cost(run.folder / metrics_file.METRICS_FILE, run.history)
    print(*describe_prescription(prescription, overrides, run.name, cost), sep="\n")
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
    command, is_longer = list_followup_overrides(prescription, overrides), bool(prescription.settings)
    if not prescription.ranges:
        yield shlex.join([*run_command(), *command])
        seconds = f"; the last one took {format_duration(cost.total_seconds)}" if cost else ""
        twice = ", this one takes twice that" * bool(cost and is_longer)
        yield fit_record(f"one run instead of a sweep{seconds}{twice}")
        return
    command.append(f"sweep.study={name_followup_study(run)}")
    request = compose_sweep_request(command)
    if request.budget.runs is None:  # no trial pauses
        command.append(f"sweep.n_trials={prescription.n_trials}")
        request = compose_sweep_request(command)
    yield shlex.join([*run_command(), "-m", *command])
    yield fit_record(_describe_sweep_cost(request, cost, is_longer))


def _describe_sweep_cost(request: SweepRequest, cost: RunCost | None, is_longer: bool) -> str:
    budget, n_jobs = request.budget, request.workers.n_jobs
    workers = f"{budget.describe_size()} by {n_jobs} worker{'s' * (n_jobs > 1)}"
    if cost is None:
        return f"{workers}; sweep.dry_run=true measures the cost of one"
    n_runs = budget.n_trials if budget.runs is None else budget.runs
    seconds = math.ceil(n_runs / n_jobs) * cost.total_seconds * (2 if is_longer else 1)
    each = "each like this run" if budget.runs is None else "each run like this one"
    return (
        f"{workers}, {each}: {cost.steps} steps of {cost.seconds_per_step:.3g} s and {cost.evals} evaluations of "
        f"{cost.seconds_per_eval:.3g} s{', twice' * is_longer}; at most {format_duration(seconds)} in "
        f"all{', less with pruning' * (budget.runs is None)}"
    )
