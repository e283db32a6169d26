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

from harness.observers.console import duration, number
from harness.sweep.report.boundaries import Edge
from harness.sweep.report.summary import JUDGED, Summary, TrialFacts, command, count, front, label, short_names

COLOURS = {"completed": "green", "pruned": "yellow", "diverged": "red", "failed": "red", "interrupted": "magenta"}
AROUND = 6
"""Lines of the terminal that hold no trial: the head, what is left out, and those below."""
WHOLE = 10_000
"""From here on, as for tokens, a value is shown without decimals."""


class Table:
    """Told all trials again and again, shows the best, the newest and where the sweep stands."""

    def __init__(self, objectives: Sequence[str], n_trials: int, n_jobs: int, stream: TextIO | None = None) -> None:
        self._labels, self._n_trials, self._n_jobs = [label(name) for name in objectives], n_trials, n_jobs
        self._terminal = Terminal(file=stream, highlight=False, soft_wrap=False)
        self._trials: Sequence[TrialFacts] | None = None
        self._told: set[int] = set()
        self._live: Live | None = None
        if self._terminal.is_terminal:
            self._live = Live(console=self._terminal, auto_refresh=False, vertical_overflow="crop")

    def __call__(self, trials: Sequence[TrialFacts]) -> None:
        with suppress(OSError):  # nobody reads any more, as in `python run.py -m | head`
            if self._live is None:
                self._tell(trials)
            else:
                self._live.start()
                self._live.update(self._drawn(trials, self._terminal.height - AROUND), refresh=True)
        self._trials = trials

    def close(self) -> None:
        """Leave the whole table behind."""
        if self._live is not None and self._trials is not None:
            with suppress(OSError):
                self._live.update(self._drawn(self._trials, len(self._trials)), refresh=False)
                self._live.stop()
        self._live, self._trials = None, None

    def _drawn(self, trials: Sequence[TrialFacts], height: int) -> Group:
        best = {trial.number for trial in front(trials)}
        shown = newest(trials, best, max(1, height))
        keys = differing(trials)
        names = short_names(keys)
        grid = Grid(box=None, pad_edge=False, header_style="bold", show_edge=False)
        for head in ("trial", "status", *self._labels, *(names[key] for key in keys), "time"):
            is_text = head in ("status", *(names[key] for key in keys if _is_text(trials, key)))
            grid.add_column(escape(head), justify="left" if is_text else "right", no_wrap=True)
        for trial in shown:
            cells = [_status(trial), *self._values(trial), *(_value(trial, key) for key in keys), _time(trial)]
            mark = "★ " if trial.number in best else ""
            grid.add_row(f"{mark}{trial.number}", *cells, style="bold" if mark else None)
        left_out = len(trials) - len(shown)
        more = [Text(f"{left_out} more trials, neither best nor newest", style="bright_black")] if left_out else []
        below = [Text(line, no_wrap=True, overflow="ellipsis") for line in self._standing(trials)]
        return Group(grid, *more, Text(), *below)

    def _values(self, trial: TrialFacts) -> list[str]:
        values = [_measured(value) for value in trial.values or ()]
        values += [""] * (len(self._labels) - len(values))
        return values if trial.is_over else [f"[bright_black]{value}[/]" for value in values]

    def _standing(self, trials: Sequence[TrialFacts]) -> Iterator[str]:
        best = front(trials)
        if best:
            named = f"trial {best[0].number}" if len(best) == 1 else f"{len(best)} trials on the Pareto front, trial"
            head = named if len(best) == 1 else f"{named} {best[0].number} first"
            yield f"best so far: {head} · {_values(self._labels, best[0])}"
        standing = {trial.number if trial.retry_of is None else trial.retry_of: trial for trial in trials}
        places = sum(trial.is_over for trial in standing.values())
        left = seconds_left(trials, self._n_trials, self._n_jobs)
        ending = [f"{duration(left)} left"] if left else []
        yield " · ".join([f"{places}/{self._n_trials} trials", *counted(trials), *ending])

    def _tell(self, trials: Sequence[TrialFacts]) -> None:
        if self._trials is None and any(trial.is_over for trial in trials):
            self._told = {trial.number for trial in trials if trial.is_over}
            self._print("from before: " + "; ".join(self._standing(trials)))
        keys = differing(trials)
        best = {trial.number for trial in front(trials)}
        for trial in trials:
            if trial.is_over and trial.number not in self._told:
                self._told.add(trial.number)
                self._print(self._line(trial, keys, trial.number in best))
                self._retry(trial, trials)

    def _line(self, trial: TrialFacts, keys: Sequence[str], is_best: bool) -> str:
        names = short_names(keys)
        status = f"{trial.status} ({trial.reason})" if trial.reason else trial.status
        value = _values(self._labels, trial) + (" (best so far)" if is_best else "")
        params = [f"{names[key]} {_shown(trial.params[key])}" for key in keys if key in trial.params]
        parts = [f"trial {trial.number}", status, value, *params, _time(trial)]
        return " · ".join(filter(None, parts))

    def _retry(self, trial: TrialFacts, trials: Sequence[TrialFacts]) -> None:
        place = trial.number if trial.retry_of is None else trial.retry_of
        again = [other.number for other in trials if other.retry_of == place and other.number > trial.number]
        if again:
            self._print(f"trial {again[0]} takes its place, with the same parameters")

    def _print(self, line: str) -> None:
        print(line, file=self._terminal.file, flush=True)


def tell(summary: Summary) -> str:
    """What the sweep found, how sure that is, what to widen and what it cost; to be read when it is over."""
    return "\n".join([*_found(summary), *_advice(summary), *_cost(summary)])


def newest(trials: Sequence[TrialFacts], best: Iterable[int], height: int) -> list[TrialFacts]:
    """At most `height` trials in their order: the best, those under way, then the newest."""
    order = {"running": 1, "queued": 3}
    wanted = set(best)
    ranked = sorted(trials, key=lambda t: (0 if t.number in wanted else order.get(t.status, 2), -t.number))
    return sorted(ranked[:height], key=lambda trial: trial.number)


def differing(trials: Iterable[TrialFacts]) -> list[str]:
    """The keys whose values are not the same in all trials that have any."""
    seen: dict[str, set[str]] = {}
    drawn = [trial.params for trial in trials if trial.params]
    for key in dict.fromkeys(key for params in drawn for key in params):
        seen[key] = {str(params.get(key)) for params in drawn}
    return [key for key, values in seen.items() if len(values) > 1] or list(seen)


def seconds_left(trials: Sequence[TrialFacts], n_trials: int, n_jobs: int) -> float | None:
    """An estimate: the mean of those that ended, times what is not done yet, over the workers."""
    ended = [trial.seconds for trial in trials if trial.is_over and trial.seconds]
    if not ended:
        return None
    unasked = max(0, n_trials - sum(not trial.is_retry for trial in trials))
    rests = [1 - trial.share / 100 for trial in trials if trial.status == "running"]
    queued = sum(trial.status == "queued" for trial in trials)
    return statistics.mean(ended) * max((unasked + queued + sum(rests)) / n_jobs, max(rests, default=0.0))


def counted(trials: Iterable[TrialFacts]) -> list[str]:
    return [f"{size} {status}" for status, size in count(trials).items() if size]


def _found(summary: Summary) -> Iterator[str]:
    labels = [label(name) for name in summary.objectives]
    yield f"sweep {summary.study}: {' · '.join(counted(summary.trials))} (of {summary.n_trials} asked)"
    failed = [trial for trial in summary.trials if trial.status == "failed"]
    yield from (f"  trial {trial.number} failed: {trial.reason}" for trial in failed[:5])
    if not summary.front:
        yield "no trial completed, so there is no best"
    for trial in summary.front:
        yield f"{'best' if summary.best else 'on the Pareto front'}: trial {trial.number} · {_values(labels, trial)}"
        yield f"  {command(summary.fixed, trial.params)}"
    yield from _baseline(summary)
    if summary.front:
        head, which = ("best", "it") if summary.best else ("front", "them")
        judged = f"{head} of {summary.chosen_from} trials ({', '.join(JUDGED[:-1])} or {JUDGED[-1]})"
        yield f"{judged}; re-run {which} on fresh seeds before you believe the difference"


def _baseline(summary: Summary) -> Iterator[str]:
    base, best = summary.baseline, summary.best
    if base is None:
        return
    if base.status != "completed":
        yield f"baseline: trial {base.number}, the present configuration: {base.status} {base.reason}".rstrip()
        return
    value = f"{label(summary.objectives[0])} {number(base.values[0])}"
    said = f"baseline: trial {base.number}, the present configuration · {value}"
    if best is None:
        yield said
    elif best.number == base.number:
        yield f"{said}: no trial was better"
    else:
        yield f"{said}: the best is {number(base.values[0] - best.values[0])} lower"


def _advice(summary: Summary) -> Iterator[str]:
    yield from (_edge(edge) for edge in summary.edges)
    if summary.idle:
        listed = ", ".join(f"{name} {summary.importances[name]:.0%}" for name in summary.idle)
        yield f"hardly mattered in {summary.completed} completed trials (PED-ANOVA, and fANOVA agrees): {listed}"


def _edge(edge: Edge) -> str:
    side = "lower" if edge.direction == "down" else "upper"
    where = f" where {edge.where}" if edge.where else ""
    plain, held = f"'{edge.key}={edge.widened}'", f"{edge.widened} in sweep.conditional"
    at = f"{_shown(edge.value)} is near the {side} end of its range, {_shown(edge.end)}"
    return f"{edge.key}{where}: {at}; try {held if edge.where else plain} sweep.study=NAME"


def _cost(summary: Summary) -> Iterator[str]:
    size = len(summary.trials)
    yield f"cost: {summary.tokens:,} tokens and {duration(summary.seconds)} of training in {size} trials"


def _values(labels: Sequence[str], trial: TrialFacts) -> str:
    return " · ".join(f"{name} {_measured(value)}" for name, value in zip(labels, trial.values or (), strict=False))


def _status(trial: TrialFacts) -> str:
    if trial.status == "running":
        return f"[cyan]running {trial.share} %[/]" if trial.share else "[cyan]running[/]"
    return f"[{COLOURS.get(trial.status, 'bright_black')}]{trial.status}[/]"


def _time(trial: TrialFacts) -> str:
    if trial.status == "running" and trial.started_at is not None:
        return duration(max(0.0, time.time() - trial.started_at))
    return duration(trial.seconds) if trial.is_over and trial.seconds is not None else ""


def _value(trial: TrialFacts, key: str) -> str:
    return escape(_shown(trial.params[key])) if key in trial.params else ""


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_text(trials: Iterable[TrialFacts], key: str) -> bool:
    return any(isinstance(trial.params.get(key), str) for trial in trials)


def _measured(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= WHOLE else number(value)
