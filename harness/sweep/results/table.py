"""Progress of a sweep: a live table on a terminal, one line per event in a file or pipe."""

import math
import re
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TextIO

from rich.console import Console as Terminal
from rich.live import Live
from rich.text import Text

from harness.core.formatting import format_count, format_duration, objective_label, shorten_keys
from harness.core.terminal import fit_record, wrap_parts
from harness.sweep.results.events import describe_promotion, list_events
from harness.sweep.results.formatting import (
    format_measure,
    format_objectives,
    format_param,
    format_status_counts,
)
from harness.sweep.results.summary import TrialSummary, count_statuses, find_best_trials, sum_shares
from harness.sweep.results.time_left import estimate_seconds_left
from harness.sweep.study.budget import Budget
from harness.sweep.study.rungs import FULL_RUN

STATUS_STYLES = {
    "completed": "green",
    "paused": "blue",
    "pruned": "yellow",
    "diverged": "red",
    "failed": "red",
    "interrupted": "magenta",
}
PROMOTED = "↑"
PRIOR_MARK = "prior"
"""Marks a trial that a warm start has given values."""
PLAIN_INTERVAL_S = 30.0
"""Time without a line after which the progress is printed, if the output is not a terminal."""
GAP, PARAM_INDENT = "  ", " " * 7  # between columns; of parameters below a trial, if columns do not fit


@dataclass(frozen=True)
class Column:
    """Header and cells of one column of the table."""

    header: str
    cells: Sequence[Text]
    is_left: bool = False
    is_param: bool = False

    @cached_property
    def width(self) -> int:
        """Columns of the terminal that the header and the widest cell take."""
        return max([*map(len, self.header.split("\n")), *(cell.cell_len for cell in self.cells)])

    def align(self, cell: Text) -> Text:
        """Return `cell` padded to the width of the column."""
        padding = " " * (self.width - cell.cell_len)
        return Text.assemble(cell, padding) if self.is_left else Text.assemble(padding, cell)

    def with_split_header(self) -> "Column":
        """Return the column with a header of several lines, broken between words; underscores are part of a name."""
        return replace(self, header=re.sub("(?<=_)(?=[^_])| ", "\n", self.header))


class ProgressTable:
    """Show the most important trials and the state of the sweep; called with all trials at every update."""

    def __init__(
        self,
        objectives: Sequence[str],
        budget: Budget,
        n_jobs: int,
        stream: TextIO | None = None,
        *,
        has_best: bool = True,
    ) -> None:
        self._labels, self._budget, self._n_jobs = [objective_label(name) for name in objectives], budget, n_jobs
        self._find_best = find_best_trials if has_best else lambda trials: []
        self._earlier = "resumed" if has_best else "so far"
        self._terminal = Terminal(file=stream, highlight=False, soft_wrap=False)
        self._trials: Sequence[TrialSummary] | None = None
        self._printed: set[tuple[int, int, str]] = set()
        self._live: Live | None = None
        self._printed_at, self._is_estimated = time.monotonic(), False
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False, vertical_overflow="crop", transient=True)

    def __call__(self, trials: Sequence[TrialSummary]) -> None:
        with suppress(OSError):  # the reader may be gone, as with `python run.py -m | head`
            if self._live is None:
                self._print_events(trials)
            else:
                self._live.start()
                lines = self._format_table(trials, self._terminal.height)
                self._live.update(Text("\n").join(lines), refresh=True)
        self._trials = trials

    def close(self) -> None:
        """Print the table with all trials and stop updating it."""
        if self._live is not None and self._trials is not None:
            with suppress(OSError):
                self._live.stop()  # the live table is erased, as it is cut to the terminal
                lines = self._format_table(self._trials, None)
                self._terminal.print(Text("\n").join(lines), soft_wrap=True)
        self._live, self._trials = None, None

    def _format_table(self, trials: Sequence[TrialSummary], height: int | None) -> list[Text]:
        """Return the lines of the table and of what is below it, at most `height`."""
        width = self._terminal.width
        best = {trial.number for trial in self._find_best(trials)}
        labels = shorten_keys(find_varying_keys(trials))
        columns = self._make_columns(trials, best, labels)
        params = {trial.number: format_params(trial, labels) for trial in trials}
        below: dict[int, list[str]] = {}
        if measure_width(columns) > width:
            columns = [column.with_split_header() for column in columns]
        if measure_width(columns) > width:
            columns = [column for column in columns if not column.is_param]
            below = {number: wrap_parts(parts, width, PARAM_INDENT, PARAM_INDENT) for number, parts in params.items()}
        headers = [Text(line, style="bold") for line in join_headers(columns)]
        progress = [Text(part) for line in self._progress_lines(trials) for part in _wrap_dots(line, width)]
        n_rows = len(trials)
        if height is not None:  # without the lines around the trials: an empty one, that on hidden trials, the cursor's
            lines_each = 1 + max(map(len, below.values()), default=0)
            n_rows = max(1, (height - len(headers) - len(progress) - 3) // lines_each)
        shown = select_shown_trials(trials, best, n_rows)
        rows = {trial.number: row for row, trial in enumerate(trials)}
        lines = headers
        for trial in shown:
            line = Text(GAP).join(column.align(column.cells[rows[trial.number]]) for column in columns)
            line.rstrip()
            for one in (line, *(Text(text) for text in below.get(trial.number, []) if text.strip())):
                if trial.number in best:
                    one.stylize("bold")
                lines.append(one)
        n_hidden = len(trials) - len(shown)
        which = "none of them best, running or at a higher rung" if has_rungs(trials) else "neither best nor newest"
        hidden = [Text(f"{n_hidden} more trials, {which}", style="bright_black")] if n_hidden else []
        return [*lines, *hidden, Text(), *progress]

    def _make_columns(
        self, trials: Sequence[TrialSummary], best: Collection[int], labels: Mapping[str, str]
    ) -> list[Column]:
        numbers = [Text(f"{'★ ' * (trial.number in best)}{trial.number}") for trial in trials]
        columns = [Column("trial", numbers), Column("status", list(map(_status_cell, trials)), is_left=True)]
        for index, label in enumerate(self._labels):
            columns.append(Column(label, [_value_cell(trial, index) for trial in trials]))
        for key, label in labels.items():
            cells = [Text(format_param(trial.params[key]) if key in trial.params else "") for trial in trials]
            is_text = any(isinstance(trial.params.get(key), str) for trial in trials)
            columns.append(Column(label, cells, is_left=is_text, is_param=True))
        return [*columns, Column("time", [Text(_format_time(trial)) for trial in trials])]

    def _progress_lines(self, trials: Sequence[TrialSummary]) -> Iterator[str]:
        best = self._find_best(trials)
        if best:
            values = format_objectives(self._labels, best[0].values)
            front = f"{len(best)} trials on the Pareto front, first " if len(best) > 1 else ""
            yield f"best so far: {front}trial {best[0].number} · {values}"
        is_running = any(trial.status == "running" for trial in trials)  # else a rest of the budget may stay unused
        left = estimate_seconds_left(trials, self._budget, self._n_jobs) if is_running else None
        counts = [*self._describe_budget(trials), format_status_counts(count_statuses(trials))]
        yield " · ".join(filter(None, [*counts, f"{format_duration(left)} left" if left else ""]))

    def _describe_budget(self, trials: Sequence[TrialSummary]) -> Iterator[str]:
        """Yield how much of the budget is used, and the number of trials."""
        runs, max_tokens = self._budget.runs, self._budget.max_tokens
        if runs is not None:
            yield f"{sum_shares(trials):.1f} of {runs:g} runs"
        if max_tokens is not None:
            yield f"{format_count(sum(trial.tokens for trial in trials))} of {format_count(max_tokens)} tokens"
        latest_attempts = {trial.number if trial.retry_of is None else trial.retry_of: trial for trial in trials}
        own = [trial for trial in latest_attempts.values() if trial.status != "added"]
        if runs is None and max_tokens is None:
            yield f"{sum(trial.is_over for trial in own)}/{self._budget.n_trials} trials"
        else:
            yield f"{len(own)} trials"

    def _print_events(self, trials: Sequence[TrialSummary]) -> None:
        """Print a line for each trial that has ended, paused or been promoted since the last call."""
        events = [event for trial in trials for event in list_events(trial)]
        if self._trials is None and events:
            self._printed, self._is_estimated = {event.key for event in events}, True
            self._print_line(f"{self._earlier}: " + "; ".join(self._progress_lines(trials)))
        # All keys, also those whose values differ only in a later line.
        labels = shorten_keys(dict.fromkeys(key for trial in trials if trial.status != "added" for key in trial.params))
        best = {trial.number for trial in self._find_best(trials)}
        new = [event for event in events if event.key not in self._printed]
        if self._is_progress_due(trials, has_news=bool(new)):
            self._print_line(" · ".join(self._progress_lines(trials)))
        for event in new:
            self._printed.add(event.key)
            trial = event.trial
            if event.promotion is not None:
                self._print_line(describe_promotion(event.promotion))
                continue
            state = f"paused at {trial.percent_done} %" if trial.status == "paused" else trial.status
            status = f"{state} ({trial.reason})" if trial.reason and trial.status != "paused" else state
            status += f", {PRIOR_MARK}" * bool(trial.prior)
            values = format_objectives(self._labels, trial.values) + " (best so far)" * (trial.number in best)
            parts = [f"trial {trial.number}", status, values, *format_params(trial, labels), _format_time(trial)]
            self._print_line(" · ".join(filter(None, parts)))
            first = trial.number if trial.retry_of is None else trial.retry_of
            retries = [other.number for other in trials if other.retry_of == first and other.number > trial.number]
            if retries:
                self._print_line(f"trial {retries[0]} retries it with the same parameters")

    def _is_progress_due(self, trials: Sequence[TrialSummary], *, has_news: bool) -> bool:
        """Return whether no line was printed for long, or the first trial shows how long the sweep will take."""
        if has_news:
            self._is_estimated = True
            return False
        left = estimate_seconds_left(trials, self._budget, self._n_jobs)
        is_first = left is not None and not self._is_estimated
        self._is_estimated |= is_first
        is_quiet = time.monotonic() - self._printed_at > PLAIN_INTERVAL_S
        return is_first or (is_quiet and any(trial.status == "running" for trial in trials))

    def _print_line(self, line: str) -> None:
        print(fit_record(line), file=self._terminal.file, flush=True)
        self._printed_at = time.monotonic()


def has_rungs(trials: Iterable[TrialSummary]) -> bool:
    """Return whether trials of the study pause at rungs."""
    return any(trial.status == "paused" or trial.promotions for trial in trials)


def select_shown_trials(trials: Sequence[TrialSummary], best: Iterable[int], height: int) -> list[TrialSummary]:
    """Return at most `height` trials in order of number: the best, the running, then the newest.

    Where trials pause, those come third that got furthest, and of those the best.
    """
    best_numbers, is_by_rung = set(best), has_rungs(trials)

    def rank(trial: TrialSummary) -> tuple[Any, ...]:
        priority = 0 if trial.number in best_numbers else {"running": 1, "queued": 3}.get(trial.status, 2)
        order = (-trial.percent_done, trial.costs[:1] or (math.inf,)) if is_by_rung else ()
        return (priority, *order, -trial.number)

    return sorted(sorted(trials, key=rank)[:height], key=lambda trial: trial.number)


def find_varying_keys(trials: Iterable[TrialSummary]) -> list[str]:
    """Return the keys whose values differ between trials, or all keys if none does."""
    param_sets = [trial.params for trial in trials if trial.params and trial.status != "added"]
    keys = list(dict.fromkeys(key for params in param_sets for key in params))
    return [key for key in keys if len({str(params.get(key)) for params in param_sets}) > 1] or keys


def format_params(trial: TrialSummary, labels: Mapping[str, str]) -> list[str]:
    """Return label and value of each parameter that the trial has."""
    return [f"{label} {format_param(trial.params[key])}" for key, label in labels.items() if key in trial.params]


def measure_width(columns: Sequence[Column]) -> int:
    """Return the columns of the terminal that a table takes."""
    return sum(column.width for column in columns) + len(GAP) * (len(columns) - 1)


def join_headers(columns: Sequence[Column]) -> list[str]:
    """Return the lines of the header, which is as high as its highest column."""
    headers = [column.header.split("\n") for column in columns]
    height = max(map(len, headers))
    padded = [[""] * (height - len(header)) + header for header in headers]
    lines = (
        [column.align(Text(word)).plain for column, word in zip(columns, row, strict=True)]
        for row in zip(*padded, strict=True)
    )
    return [GAP.join(line).rstrip() for line in lines]


def _wrap_dots(line: str, width: int) -> list[str]:
    return wrap_parts(line.split(" · "), width, rest=GAP)


def _value_cell(trial: TrialSummary, index: int) -> Text:
    """Return the value of one objective; a running trial may have fewer values."""
    if index >= len(trial.values):
        return Text()
    return Text(format_measure(trial.values[index]), style="" if trial.is_over else "bright_black")


def _status_cell(trial: TrialSummary) -> Text:
    text: str = trial.status
    if trial.status == "running" and trial.target < FULL_RUN:
        text = f"running {trial.percent_done}→{trial.target} %"
    elif not trial.is_over and trial.percent_done:
        text = f"{trial.status} {trial.percent_done} %"
    style = "cyan" if trial.status == "running" else STATUS_STYLES.get(trial.status, "bright_black")
    marks = [PROMOTED * len(trial.promotions), PRIOR_MARK * bool(trial.prior)]
    return Text(" ".join(filter(None, [text, *marks])), style=style)


def _format_time(trial: TrialSummary) -> str:
    """Return the time that a trial has taken, its earlier parts included."""
    if trial.status == "running" and trial.started_at is not None:
        return format_duration((trial.seconds or 0.0) + max(0.0, time.time() - trial.started_at))
    return "" if trial.seconds is None or trial.status == "queued" else format_duration(trial.seconds)
