"""The text printed at the end of a sweep."""

from collections.abc import Iterator

from harness.core.formatting import format_duration, format_number
from harness.core.terminal import fit_record
from harness.sweep.report.boundaries import BoundaryHit
from harness.sweep.report.formatting import (
    format_objectives,
    format_param,
    format_run_command,
    format_status_counts,
    objective_label,
)
from harness.sweep.report.summary import MEASURED, SweepSummary

MAX_FAILURES_SHOWN = 5


def format_sweep_summary(summary: SweepSummary) -> str:
    """Return the results, the baseline, ranges to widen, idle parameters and the cost, in lines."""
    size = len(summary.trials)
    cost = f"cost: {summary.tokens:,} tokens and {format_duration(summary.seconds)} of training in {size} trials"
    return "\n".join([*_result_lines(summary), *_advice_lines(summary), fit_record(cost)])


def _result_lines(summary: SweepSummary) -> Iterator[str]:
    labels = [objective_label(name) for name in summary.objectives]
    yield fit_record(f"sweep {summary.study}: {format_status_counts(summary.counts)} (of {summary.n_trials} requested)")
    failed = [trial for trial in summary.trials if trial.status == "failed"]
    yield from (fit_record(f"  trial {trial.number} failed: {trial.reason}") for trial in failed[:MAX_FAILURES_SHOWN])
    if not summary.best_trials:
        yield "no trial completed, so there is no best trial"
    for trial in summary.best_trials:
        head = "best" if summary.best_trial else "on the Pareto front"
        yield fit_record(f"{head}: trial {trial.number} · {format_objectives(labels, trial.values)}")
        yield f"  {format_run_command(summary.fixed, trial.params)}"
    yield from map(fit_record, _baseline_lines(summary))
    if summary.best_trials:
        head, which = ("best", "it") if summary.best_trial else ("Pareto front", "them")
        statuses = f"{', '.join(MEASURED[:-1])} or {MEASURED[-1]}"
        yield fit_record(f"{head} of {summary.n_measured} trials ({statuses}); rerun {which} on fresh seeds to confirm")


def _baseline_lines(summary: SweepSummary) -> Iterator[str]:
    baseline, best = summary.baseline, summary.best_trial
    if baseline is None:
        return
    head = f"baseline: trial {baseline.number}, the current configuration"
    if baseline.status != "completed":
        yield f"{head}: {baseline.status} {baseline.reason}".rstrip()
        return
    head += f" · {objective_label(summary.objectives[0])} {format_number(baseline.values[0])}"
    if best is None:
        yield head
    elif best.number == baseline.number:
        yield f"{head}: no trial was better"
    else:
        yield f"{head}: the best is {format_number(baseline.values[0] - best.values[0])} lower"


def _advice_lines(summary: SweepSummary) -> Iterator[str]:
    for hit in summary.boundary_hits:
        yield from _boundary_lines(hit)
    if summary.idle_params:
        params = ", ".join(f"{name} {summary.importances[name]:.0%}" for name in summary.idle_params)
        head = f"little effect in {summary.n_completed} completed trials (by PED-ANOVA and fANOVA)"
        yield fit_record(f"{head}: {params}")


def _boundary_lines(hit: BoundaryHit) -> Iterator[str]:
    """Yield which bound the best value is near, and the override that moves it."""
    side = "lower" if hit.direction == "down" else "upper"
    condition = f" with {hit.condition}" if hit.condition else ""
    position = f"{format_param(hit.value)} is near the {side} bound {format_param(hit.bound)}"
    where = " in sweep.conditional, with sweep.study=NAME" if condition else ""
    yield fit_record(f"{hit.key}{condition}: {position}; try{where}")
    yield f"  {hit.wider_range}" if condition else f"  '{hit.key}={hit.wider_range}' sweep.study=NAME"
