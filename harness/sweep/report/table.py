"""Progress of a sweep: a live table on a terminal, one line per finished trial in a file or pipe."""

import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import TextIO

from rich.console import Console as Terminal
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table as Grid
from rich.text import Text

from harness.core.formatting import format_duration
from harness.sweep.report.formatting import (
    format_measure,
    format_objectives,
    format_param,
    format_status_counts,
    objective_label,
    shorten_keys,
)
from harness.sweep.report.summary import TrialSummary, count_statuses, find_best_trials

STATUS_STYLES = {"completed": "green", "pruned": "yellow", "diverged": "red", "failed": "red", "interrupted": "magenta"}
RESERVED_LINES = 6
"""Lines of the terminal without a trial: the header, the count of hidden trials, and the lines below the table."""


class ProgressTable:
    """Show the best and the newest trials and the state of the sweep; called with all trials at every update."""

    def __init__(self, objectives: Sequence[str], n_trials: int, n_jobs: int, stream: TextIO | None = None) -> None:
        self._labels, self._n_trials, self._n_jobs = [objective_label(name) for name in objectives], n_trials, n_jobs
        self._terminal = Terminal(file=stream, highlight=False, soft_wrap=False)
        self._trials: Sequence[TrialSummary] | None = None
        self._printed: set[int] = set()
        self._live: Live | None = None
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False, vertical_overflow="crop")

    def __call__(self, trials: Sequence[TrialSummary]) -> None:
        with suppress(OSError):  # the reader may be gone, as with `python run.py -m | head`
            if self._live is None:
                self._print_ended_trials(trials)
            else:
                self._live.start()
                self._live.update(self._render_table(trials, self._terminal.height - RESERVED_LINES), refresh=True)
        self._trials = trials

    def close(self) -> None:
        """Print the table with all trials and stop updating it."""
        if self._live is not None and self._trials is not None:
            with suppress(OSError):
                self._live.update(self._render_table(self._trials, len(self._trials)), refresh=False)
                self._live.stop()
        self._live, self._trials = None, None

    def _render_table(self, trials: Sequence[TrialSummary], height: int) -> Group:
        best = {trial.number for trial in find_best_trials(trials)}
        shown = select_shown_trials(trials, best, max(1, height))
        labels = shorten_keys(find_varying_keys(trials))
        grid = Grid(box=None, pad_edge=False, header_style="bold", show_edge=False)
        text_columns = {"status"} | {
            label for key, label in labels.items() if any(isinstance(trial.params.get(key), str) for trial in trials)
        }
        for header in ("trial", "status", *self._labels, *labels.values(), "time"):
            grid.add_column(escape(header), justify="left" if header in text_columns else "right", no_wrap=True)
        for trial in shown:
            params = [escape(format_param(trial.params[key])) if key in trial.params else "" for key in labels]
            mark = "★ " if trial.number in best else ""
            cells = [
                f"{mark}{trial.number}",
                _status_cell(trial),
                *self._value_cells(trial),
                *params,
                _format_time(trial),
            ]
            grid.add_row(*cells, style="bold" if mark else None)
        n_hidden = len(trials) - len(shown)
        hidden = [Text(f"{n_hidden} more trials, neither best nor newest", style="bright_black")] if n_hidden else []
        below = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._progress_lines(trials)]
        return Group(grid, *hidden, Text(), *below)

    def _value_cells(self, trial: TrialSummary) -> list[str]:
        values = [format_measure(value) for value in trial.values[: len(self._labels)]]
        values += [""] * (len(self._labels) - len(values))
        return values if trial.is_over else [f"[bright_black]{value}[/]" for value in values]

    def _progress_lines(self, trials: Sequence[TrialSummary]) -> Iterator[str]:
        best = find_best_trials(trials)
        if best:
            values = format_objectives(self._labels, best[0].values)
            front = f"{len(best)} trials on the Pareto front, first " if len(best) > 1 else ""
            yield f"best so far: {front}trial {best[0].number} · {values}"
        latest_attempts = {trial.number if trial.retry_of is None else trial.retry_of: trial for trial in trials}
        n_over = sum(trial.is_over and trial.status != "added" for trial in latest_attempts.values())
        left = estimate_seconds_left(trials, self._n_trials, self._n_jobs)
        counts = [f"{n_over}/{self._n_trials} trials", format_status_counts(count_statuses(trials))]
        yield " · ".join(filter(None, [*counts, f"{format_duration(left)} left" if left else ""]))

    def _print_ended_trials(self, trials: Sequence[TrialSummary]) -> None:
        if self._trials is None and any(trial.is_over for trial in trials):
            self._printed = {trial.number for trial in trials if trial.is_over}
            self._print_line("resumed: " + "; ".join(self._progress_lines(trials)))
        labels = shorten_keys(find_varying_keys(trials))
        best = {trial.number for trial in find_best_trials(trials)}
        for trial in trials:
            if not trial.is_over or trial.number in self._printed:
                continue
            self._printed.add(trial.number)
            status = f"{trial.status} ({trial.reason})" if trial.reason else trial.status
            values = format_objectives(self._labels, trial.values) + " (best so far)" * (trial.number in best)
            params = [f"{labels[key]} {format_param(trial.params[key])}" for key in labels if key in trial.params]
            parts = [f"trial {trial.number}", status, values, *params, _format_time(trial)]
            self._print_line(" · ".join(filter(None, parts)))
            first = trial.number if trial.retry_of is None else trial.retry_of
            retries = [other.number for other in trials if other.retry_of == first and other.number > trial.number]
            if retries:
                self._print_line(f"trial {retries[0]} retries it with the same parameters")

    def _print_line(self, line: str) -> None:
        print(line, file=self._terminal.file, flush=True)


def select_shown_trials(trials: Sequence[TrialSummary], best: Iterable[int], height: int) -> list[TrialSummary]:
    """Return at most `height` trials in order of number: the best, the running, then the newest."""
    priority = {"running": 1, "queued": 3}
    best_numbers = set(best)
    ranked = sorted(trials, key=lambda t: (0 if t.number in best_numbers else priority.get(t.status, 2), -t.number))
    return sorted(ranked[:height], key=lambda trial: trial.number)


def find_varying_keys(trials: Iterable[TrialSummary]) -> list[str]:
    """Return the keys whose values differ between trials, or all keys if none does."""
    param_sets = [trial.params for trial in trials if trial.params and trial.status != "added"]
    keys = list(dict.fromkeys(key for params in param_sets for key in params))
    return [key for key in keys if len({str(params.get(key)) for params in param_sets}) > 1] or keys


def estimate_seconds_left(trials: Sequence[TrialSummary], n_trials: int, n_jobs: int) -> float | None:
    """Estimate the time left from the mean duration of finished trials; None before the first has finished."""
    durations = [trial.seconds for trial in trials if trial.is_over and trial.seconds]
    if not durations:
        return None
    n_new = max(0, n_trials - sum(trial.retry_of is None and trial.status != "added" for trial in trials))
    running = [1 - trial.percent_done / 100 for trial in trials if trial.status == "running"]
    n_queued = sum(trial.status == "queued" for trial in trials)
    return statistics.mean(durations) * max((n_new + n_queued + sum(running)) / n_jobs, max(running, default=0.0))


def _status_cell(trial: TrialSummary) -> str:
    if trial.status == "running":
        return f"[cyan]running {trial.percent_done} %[/]" if trial.percent_done else "[cyan]running[/]"
    return f"[{STATUS_STYLES.get(trial.status, 'bright_black')}]{trial.status}[/]"


def _format_time(trial: TrialSummary) -> str:
    if trial.status == "running" and trial.started_at is not None:
        return format_duration(max(0.0, time.time() - trial.started_at))
    return format_duration(trial.seconds) if trial.is_over and trial.seconds is not None else ""
