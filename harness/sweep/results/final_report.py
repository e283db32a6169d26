"""The text printed at the end of a sweep."""

import shlex
from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from harness.core.formatting import format_duration, format_number, objective_label
from harness.core.terminal import fit_record
from harness.sweep.results.boundaries import SEED, BoundaryHit
from harness.sweep.results.formatting import (
    format_objectives,
    format_param,
    format_status_counts,
)
from harness.sweep.results.summary import MEASURED, SweepSummary, TrialSummary, count_paused, find_best_trials
from harness.sweep.study.budget import group_by_reason
from harness.sweep.trial_runner import CommandLine

MAX_FAILURES_SHOWN = 5
MAX_SETTINGS_SHOWN = 10


def format_sweep_summary(
    summary: SweepSummary, command_line: CommandLine, study: str, status: str = "completed"
) -> str:
    """Return the results, the baseline, ranges to widen, idle parameters and the cost, in lines.

    `study` is what commands find the study by, and `status` how the command ended that ran it.
    """
    size = sum(bool(trial.seconds) for trial in summary.trials)  # others never ran, or were killed
    tokens = f"{summary.tokens:,} tokens and " if summary.tokens else ""  # other programs do not say
    cost = f"cost: {tokens}{format_duration(summary.seconds)} of training in {size} trials"
    results, advice = _result_lines(summary, command_line, study), _advice_lines(summary, command_line)
    paused = _paused_lines(summary, command_line, status)
    return "\n".join([*results, *paused, *advice, fit_record(cost)])


def _result_lines(summary: SweepSummary, command_line: CommandLine, study: str) -> Iterator[str]:
    labels = [objective_label(name) for name in summary.objectives]
    yield fit_record(f"sweep {summary.study}: {format_status_counts(summary.counts)} ({_describe_budget(summary)})")
    failures = group_by_reason({trial.number: trial.reason for trial in summary.trials if trial.status == "failed"})
    for reason, trials in list(failures.items())[:MAX_FAILURES_SHOWN]:
        yield fit_record(f"  {trials} failed: {reason}")
    if not summary.best_trials:
        yield "no trial completed, so there is no best trial"
    for trial, command in zip(summary.best_trials, summary.best_commands, strict=True):
        head = "best" if summary.best_trial else "on the Pareto front"
        yield fit_record(f"{head}: trial {trial.number} · {format_objectives(labels, trial.values)}")
        yield f"  {command}"
    yield from map(fit_record, _baseline_lines(summary, command_line.baseline_name))
    yield from map(fit_record, _prior_lines(summary))
    if over_seeds := list(_seed_lines(summary)):
        yield from over_seeds
    elif summary.best_trials:
        yield from _confirm_lines(summary, command_line.confirm_options, study)


def _describe_budget(summary: SweepSummary) -> str:
    budget = summary.budget
    if budget.runs is not None:
        return f"{summary.runs_used:.1f} of {budget.runs:g} runs"
    if budget.max_tokens is not None:
        return f"{summary.tokens:,} of {budget.max_tokens:,} tokens"
    return f"of {budget.n_trials} requested"


def _paused_lines(summary: SweepSummary, command_line: CommandLine, status: str) -> Iterator[str]:
    """Yield how many trials are paused at which rung, and how to continue the best of them."""
    if counts := count_paused(summary.trials):
        rungs = ", ".join(f"{count} at {rung} %" for rung, count in counts.items())
        option = "" if status == "interrupted" else f"raise {summary.budget.name_limit()} and "
        remedy = f"{option}run the same command to continue the best of them"
        yield fit_record(f"paused: {rungs}; {command_line.rename_options(remedy)}")


def _confirm_lines(summary: SweepSummary, confirm_options: str | None, study: str) -> Iterator[str]:
    """Yield from how many trials the best was chosen, and the command that runs it and the baseline on fresh seeds."""
    head, which = ("best", "it") if summary.best_trial else ("Pareto front", "them")
    *statuses, last = (status for status in MEASURED if summary.counts[status])
    which_trials = f"{', '.join(statuses)} or {last}" if statuses else last
    measured = f"{head} of {summary.n_measured} trials ({which_trials})"
    if summary.best_trial and summary.best_trial.is_baseline:
        yield fit_record(measured)
    elif confirm_options is None:
        yield fit_record(f"{measured}; rerun {which} on fresh seeds to confirm")
    else:
        yield fit_record(f"{measured}; confirm {which} on fresh seeds")
        yield f"  {' '.join(filter(None, ['plateau confirm', shlex.quote(study), confirm_options]))}"


def _seed_lines(summary: SweepSummary) -> Iterator[str]:
    """Yield the mean of each setting that was run with several seeds, the best first."""
    by_setting: dict[str, list[TrialSummary]] = {}
    for trial in summary.trials:
        if trial.status == "completed" and SEED in trial.params:
            setting = " ".join(f"{key}={format_param(value)}" for key, value in trial.params.items() if key != SEED)
            by_setting.setdefault(setting, []).append(trial)
    repeated = {name: trials for name, trials in by_setting.items() if len(trials) > 1}
    if repeated:
        yield f"mean {objective_label(summary.objectives[0])} over seeds, and its standard deviation from seed to seed:"
    ranked = sorted(repeated, key=lambda name: mean(trial.costs[0] for trial in repeated[name]))
    for name in ranked[:MAX_SETTINGS_SHOWN]:
        values = [trial.values[0] for trial in repeated[name]]
        yield fit_record(f"  {_format_mean(values)}{f' · {name}' * bool(name)}")


def _format_mean(values: Sequence[float]) -> str:
    return f"{format_number(mean(values))} ± {stdev(values):.2g} ({len(values)} seeds)"


def _baseline_lines(summary: SweepSummary, name: str) -> Iterator[str]:
    baseline, best = summary.baseline, summary.best_trial
    if baseline is None:
        return
    head = f"baseline: trial {baseline.number}, {name}"
    if baseline.status != "completed":
        yield f"{head}: {baseline.status}{f' ({baseline.reason})' * bool(baseline.reason)}"
        return
    head += f" · {objective_label(summary.objectives[0])} {format_number(baseline.values[0])}"
    if best is None:
        yield head
    elif best.number == baseline.number:
        yield f"{head}: no trial was better"
    else:
        side = "lower" if best.values[0] < baseline.values[0] else "higher"
        yield f"{head}: the best is {format_number(abs(baseline.values[0] - best.values[0]))} {side}"


def _prior_lines(summary: SweepSummary) -> Iterator[str]:
    """Yield which trials a warm start has given values, and what the best of them reached."""
    trials = [trial for trial in summary.trials if trial.prior]
    if not trials:
        return
    numbers = f"trial{'s' * (len(trials) > 1)} {', '.join(str(trial.number) for trial in trials)}"
    head = f"warm start from {trials[0].prior['source']}: {numbers}"
    best = next(iter(find_best_trials(trials)), None)
    labels = [objective_label(name) for name in summary.objectives]
    yield f"{head}; best of them: trial {best.number} · {format_objectives(labels, best.values)}" if best else head


def _advice_lines(summary: SweepSummary, command_line: CommandLine) -> Iterator[str]:
    for hit in summary.boundary_hits:
        yield from _boundary_lines(hit, command_line)
    if summary.idle_params:
        params = ", ".join(f"{name} {summary.importances[name]:.0%}" for name in summary.idle_params)
        head = f"little effect in {summary.n_completed} completed trials (by PED-ANOVA and fANOVA)"
        yield fit_record(f"{head}: {params}")


def _boundary_lines(hit: BoundaryHit, command_line: CommandLine) -> Iterator[str]:
    """Yield which bound the best value is near, and the override that moves it."""
    side = "lower" if hit.direction == "down" else "upper"
    condition = f" with {hit.condition}" if hit.condition else ""
    position = f"{format_param(hit.value)} is near the {side} bound {format_param(hit.bound)}"
    where = command_line.rename_options(" in sweep.conditional, with sweep.study=NAME") if condition else ""
    yield fit_record(f"{hit.key}{condition}: {position}; try{where}")
    wider = hit.wider_range if condition else command_line.format_wider_search(hit.key, hit.wider_range)
    yield f"  {wider}"
