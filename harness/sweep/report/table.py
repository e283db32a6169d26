"""A sweep as a person at a terminal follows it; a plain line a trial where the output is a file or a pipe."""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any, TextIO

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from harness.observers.console import format_duration, format_number
from harness.sweep.report.boundaries import BoundaryHit
from harness.sweep.report.summary import (
    MEASURED,
    SweepSummary,
    TrialSummary,
    count_statuses,
    find_best_trials,
    format_run_command,
    objective_label,
    shorten_keys,
)

STATUS_STYLES = {"completed": "green", "pruned": "yellow", "diverged": "red", "failed": "red", "interrupted": "magenta"}
RESERVED_LINES = 6
"""Lines of the terminal that hold no trial: the head, what is left out, and those below."""
MIN_WITHOUT_DECIMALS = 10_000
"""From here on, as for tokens, a value is shown without decimals."""


class ProgressTable:
    """Told all trials again and again, shows the best, the newest and where the sweep stands."""

    def __init__(self, objectives: Sequence[str], n_trials: int, n_jobs: int, stream: TextIO | None = None) -> None:
        self._labels, self._n_trials, self._n_jobs = [objective_label(name) for name in objectives], n_trials, n_jobs
        self._terminal = Terminal(file=stream, highlight=False, soft_wrap=False)
        self._trials: Sequence[TrialSummary] | None = None
        self._printed: set[int] = set()
        self._live: Live | None = None
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False, vertical_overflow="crop")

    def __call__(self, trials: Sequence[TrialSummary]) -> None:
        with suppress(OSError):  # nobody reads any more, as in `python run.py -m | head`
            if self._live is None:
                self._print_ended_trials(trials)
            else:
                self._live.start()
                self._live.update(self._render_table(trials, self._terminal.height - RESERVED_LINES), refresh=True)
        self._trials = trials

    def close(self) -> None:
        """Leave the whole table behind."""
        if self._live is not None and self._trials is not None:
            with suppress(OSError):
                self._live.update(self._render_table(self._trials, len(self._trials)), refresh=False)
                self._live.stop()
        self._live, self._trials = None, None

    def _render_table(self, trials: Sequence[TrialSummary], height: int) -> Group:
        best = {trial.number for trial in find_best_trials(trials)}
        shown = select_shown_trials(trials, best, max(1, height))
        keys = find_varying_keys(trials)
        names = shorten_keys(keys)
        grid = Grid(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for head in ("trial", "status", *self._labels, *(names[key] for key in keys), "time"):
            is_text = head in ("status", *(names[key] for key in keys if _has_text(trials, key)))
            grid.add_column(escape(head), justify="left" if is_text else "right", no_wrap=True)
        for trial in shown:
            cells = [
                _status_cell(trial),
                *self._value_cells(trial),
                *(_param_cell(trial, key) for key in keys),
                _format_time(trial),
            ]
            mark = "★ " if trial.number in best else ""
            grid.add_row(f"{mark}{trial.number}", *cells, style="bold" if mark else None)
        left_out = len(trials) - len(shown)
        more = [Text(f"{left_out} more trials, neither best nor newest", style="bright_black")] if left_out else []
        below = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._progress_lines(trials)]
        return Group(grid, *more, Text(), *below)

    def _value_cells(self, trial: TrialSummary) -> list[str]:
        values = [_format_measure(value) for value in trial.values or ()]
        values += [""] * (len(self._labels) - len(values))
        return values if trial.is_over else [f"[bright_black]{value}[/]" for value in values]

    def _progress_lines(self, trials: Sequence[TrialSummary]) -> Iterator[str]:
        best = find_best_trials(trials)
        if best:
            named = f"trial {best[0].number}" if len(best) == 1 else f"{len(best)} trials on the Pareto front, trial"
            head = named if len(best) == 1 else f"{named} {best[0].number} first"
            yield f"best so far: {head} · {_format_values(self._labels, best[0])}"
        standing = {trial.number if trial.retry_of is None else trial.retry_of: trial for trial in trials}
        places = sum(trial.is_over for trial in standing.values())
        left = estimate_seconds_left(trials, self._n_trials, self._n_jobs)
        ending = [f"{format_duration(left)} left"] if left else []
        yield " · ".join([f"{places}/{self._n_trials} trials", *format_status_counts(trials), *ending])

    def _print_ended_trials(self, trials: Sequence[TrialSummary]) -> None:
        if self._trials is None and any(trial.is_over for trial in trials):
            self._printed = {trial.number for trial in trials if trial.is_over}
            self._print_line("from before: " + "; ".join(self._progress_lines(trials)))
        keys = find_varying_keys(trials)
        best = {trial.number for trial in find_best_trials(trials)}
        for trial in trials:
            if trial.is_over and trial.number not in self._printed:
                self._printed.add(trial.number)
                self._print_line(self._trial_line(trial, keys, trial.number in best))
                self._print_retry(trial, trials)

    def _trial_line(self, trial: TrialSummary, keys: Sequence[str], is_best: bool) -> str:
        names = shorten_keys(keys)
        status = f"{trial.status} ({trial.reason})" if trial.reason else trial.status
        value = _format_values(self._labels, trial) + (" (best so far)" if is_best else "")
        params = [f"{names[key]} {_format_param(trial.params[key])}" for key in keys if key in trial.params]
        parts = [f"trial {trial.number}", status, value, *params, _format_time(trial)]
        return " · ".join(filter(None, parts))

    def _print_retry(self, trial: TrialSummary, trials: Sequence[TrialSummary]) -> None:
        place = trial.number if trial.retry_of is None else trial.retry_of
        again = [other.number for other in trials if other.retry_of == place and other.number > trial.number]
        if again:
            self._print_line(f"trial {again[0]} takes its place, with the same parameters")

    def _print_line(self, line: str) -> None:
        print(line, file=self._terminal.file, flush=True)


def format_sweep_summary(summary: SweepSummary) -> str:
    """What the sweep found, how sure that is, what to widen and what it cost; to be read when it is over."""
    return "\n".join([*_result_lines(summary), *_advice_lines(summary), *_cost_lines(summary)])


def select_shown_trials(trials: Sequence[TrialSummary], best: Iterable[int], height: int) -> list[TrialSummary]:
    """At most `height` trials in their order: the best, those under way, then the newest."""
    order = {"running": 1, "queued": 3}
    wanted = set(best)
    ranked = sorted(trials, key=lambda t: (0 if t.number in wanted else order.get(t.status, 2), -t.number))
    return sorted(ranked[:height], key=lambda trial: trial.number)


def find_varying_keys(trials: Iterable[TrialSummary]) -> list[str]:
    """The keys whose values are not the same in all trials that have any."""
    seen: dict[str, set[str]] = {}
    drawn = [trial.params for trial in trials if trial.params]
    for key in dict.fromkeys(key for params in drawn for key in params):
        seen[key] = {str(params.get(key)) for params in drawn}
    return [key for key, values in seen.items() if len(values) > 1] or list(seen)


def estimate_seconds_left(trials: Sequence[TrialSummary], n_trials: int, n_jobs: int) -> float | None:
    """An estimate: the mean of those that ended, times what is not done yet, over the workers."""
    ended = [trial.seconds for trial in trials if trial.is_over and trial.seconds]
    if not ended:
        return None
    unasked = max(0, n_trials - sum(not trial.is_retry for trial in trials))
    rests = [1 - trial.percent_done / 100 for trial in trials if trial.status == "running"]
    queued = sum(trial.status == "queued" for trial in trials)
    return statistics.mean(ended) * max((unasked + queued + sum(rests)) / n_jobs, max(rests, default=0.0))


def format_status_counts(trials: Iterable[TrialSummary]) -> list[str]:
    return [f"{size} {status}" for status, size in count_statuses(trials).items() if size]


def _result_lines(summary: SweepSummary) -> Iterator[str]:
    labels = [objective_label(name) for name in summary.objectives]
    yield f"sweep {summary.study}: {' · '.join(format_status_counts(summary.trials))} (of {summary.n_trials} asked)"
    failed = [trial for trial in summary.trials if trial.status == "failed"]
    yield from (f"  trial {trial.number} failed: {trial.reason}" for trial in failed[:5])
    if not summary.best_trials:
        yield "no trial completed, so there is no best"
    for trial in summary.best_trials:
        yield f"{'best' if summary.best_trial else 'on the Pareto front'}: trial {trial.number} · {_format_values(labels, trial)}"
        yield f"  {format_run_command(summary.fixed, trial.params)}"
    yield from _baseline_lines(summary)
    if summary.best_trials:
        head, which = ("best", "it") if summary.best_trial else ("front", "them")
        judged = f"{head} of {summary.n_measured} trials ({', '.join(MEASURED[:-1])} or {MEASURED[-1]})"
        yield f"{judged}; re-run {which} on fresh seeds before you believe the difference"


def _baseline_lines(summary: SweepSummary) -> Iterator[str]:
    base, best = summary.baseline, summary.best_trial
    if base is None:
        return
    if base.status != "completed":
        yield f"baseline: trial {base.number}, the present configuration: {base.status} {base.reason}".rstrip()
        return
    value = f"{objective_label(summary.objectives[0])} {format_number(base.values[0])}"
    said = f"baseline: trial {base.number}, the present configuration · {value}"
    if best is None:
        yield said
    elif best.number == base.number:
        yield f"{said}: no trial was better"
    else:
        yield f"{said}: the best is {format_number(base.values[0] - best.values[0])} lower"


def _advice_lines(summary: SweepSummary) -> Iterator[str]:
    yield from (_boundary_line(edge) for edge in summary.boundary_hits)
    if summary.idle_params:
        listed = ", ".join(f"{name} {summary.importances[name]:.0%}" for name in summary.idle_params)
        yield f"hardly mattered in {summary.n_completed} completed trials (PED-ANOVA, and fANOVA agrees): {listed}"


def _boundary_line(edge: BoundaryHit) -> str:
    side = "lower" if edge.direction == "down" else "upper"
    where = f" where {edge.condition}" if edge.condition else ""
    plain, held = f"'{edge.key}={edge.wider_range}'", f"{edge.wider_range} in sweep.conditional"
    at = f"{_format_param(edge.value)} is near the {side} end of its range, {_format_param(edge.bound)}"
    return f"{edge.key}{where}: {at}; try {held if edge.condition else plain} sweep.study=NAME"


def _cost_lines(summary: SweepSummary) -> Iterator[str]:
    size = len(summary.trials)
    yield f"cost: {summary.tokens:,} tokens and {format_duration(summary.seconds)} of training in {size} trials"


def _format_values(labels: Sequence[str], trial: TrialSummary) -> str:
    return " · ".join(
        f"{name} {_format_measure(value)}" for name, value in zip(labels, trial.values or (), strict=False)
    )


def _status_cell(trial: TrialSummary) -> str:
    if trial.status == "running":
        return f"[cyan]running {trial.percent_done} %[/]" if trial.percent_done else "[cyan]running[/]"
    return f"[{STATUS_STYLES.get(trial.status, 'bright_black')}]{trial.status}[/]"


def _format_time(trial: TrialSummary) -> str:
    if trial.status == "running" and trial.started_at is not None:
        return format_duration(max(0.0, time.time() - trial.started_at))
    return format_duration(trial.seconds) if trial.is_over and trial.seconds is not None else ""


def _param_cell(trial: TrialSummary, key: str) -> str:
    return escape(_format_param(trial.params[key])) if key in trial.params else ""


def _format_param(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _has_text(trials: Iterable[TrialSummary], key: str) -> bool:
    return any(isinstance(trial.params.get(key), str) for trial in trials)


def _format_measure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= MIN_WITHOUT_DECIMALS else format_number(value)
