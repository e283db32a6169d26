"""The part of a curve that shows whether a run still learns: its last doublings of tokens near the peak LR."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import Trend, fit_trend

PEAK_TOLERANCE = 0.99
MIN_LOSS_FRACTION = 0.05  # of the initial loss; below it any difference would be a large share of a loss near 0
MIN_DOUBLINGS_FRACTION = 0.6  # of the requested doublings that a window must span
MIN_TRAIN_ROWS = 10  # more than evaluations, since the training loss is noisier
MIN_CHANGE_FRACTION = 0.2  # of the change of a loss that changed its sign
MIN_LR_POINTS = 3  # fewer are no schedule
ROUNDING_FRACTION = 1e-6  # of the loss
DOUBLINGS = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class TrendWindow:
    """The trend of `metric` over log2(tokens or steps) from step `first` to `last`."""

    metric: str
    first: int
    last: int
    unit: str  # tokens, or what the log counts
    amounts: tuple[float, float]  # of `unit`, at `first` and `last`
    trend: Trend

    @property
    def fall_per_doubling(self) -> float:
        return -self.trend.slope

    @property
    def doublings(self) -> float:
        return math.log2(self.amounts[1] / self.amounts[0])

    @property
    def change_text(self) -> str:
        if abs(self.fall_per_doubling) < ROUNDING_FRACTION * abs(self.trend.end):
            return "did not change"
        direction = "fell" if self.fall_per_doubling >= 0 else "rose"
        return f"{direction} by {abs(self.fall_per_doubling):.2g} per doubling of {self.unit}"

    def to_evidence(self, confidence: float) -> Evidence:
        low, high = self.trend.interval(confidence)
        return {
            "metric": self.metric,
            "from step": self.first,
            "to step": self.last,
            f"from {self.unit}": self.amounts[0],
            f"to {self.unit}": self.amounts[1],
            "fall per doubling": self.fall_per_doubling,
            "at least": -high,
            "at most": -low,
            "points": self.trend.n,
            "loss": self.trend.end,
        }


def fit_trend_window(
    history: History,
    thresholds: Thresholds,
    until: float = math.inf,
    doublings: float = 1.0,
    metrics: Sequence[str] = ("val/loss", "train/loss"),
) -> TrendWindow | None:
    """Fit the last doublings of tokens up to step `until`.

    Uses the first of the losses that has enough points. None if none has, or if all are shorter than asked.
    """
    begin, end = find_peak_lr_steps(history, thresholds)
    for name in metrics:
        min_points = thresholds.min_points if name == "val/loss" else MIN_TRAIN_ROWS
        window = _fit_series(history, name, begin, min(end, until), min_points, doublings)
        if window:
            return window
    return None


def _fit_series(
    history: History, name: str, begin: int, end: float, min_points: int, doublings: float
) -> TrendWindow | None:
    series = drop_non_finite(history[name])
    inside = (series.steps >= max(1, begin)) & (series.steps <= end)
    if not inside.any():
        return None
    tokens = history.tokens_at(series.steps)
    amounts = series.steps.astype(float) if tokens is None else tokens
    total = amounts[np.flatnonzero(inside)[-1]]
    is_tail = doublings == 1 and amounts[0] > total / 2  # all that was recorded, the end of a longer run
    inside &= amounts >= total / 2**doublings
    amounts, (steps, values) = amounts[inside], (series.steps[inside], series.values[inside])
    is_short = math.log2(total / amounts[0]) < MIN_DOUBLINGS_FRACTION * doublings and not is_tail
    if len(steps) < min_points or is_short or amounts[0] == total:
        return None
    unit = history.facts.steps_unit if tokens is None else "tokens"
    ends = float(amounts[0]), float(total)
    return TrendWindow(name, int(steps[0]), int(steps[-1]), unit, ends, fit_trend(np.log2(amounts), values))


def find_peak_lr_steps(history: History, thresholds: Thresholds) -> tuple[int, int]:
    """Return the step at which the LR first reached its peak, and the last one near it.

    Without a recorded LR the whole run after the warm-up counts.
    """
    if not knows_lr(history):
        return history.facts.warmup_steps or 0, history.last_step
    lr = history["train/lr"]
    peak = lr.values.max()
    begin = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * peak)])
    last = np.flatnonzero(lr.values >= thresholds.peak_lr_fraction * peak)[-1]
    return begin, history.last_step if last == len(lr) - 1 else int(lr.steps[last])


def knows_lr(history: History) -> bool:
    """Return whether the schedule of the LR is recorded; one or two values, or those of the start alone, are none."""
    lr = history["train/lr"]
    return len(lr) >= MIN_LR_POINTS and lr.values.max() > 0 and bool(2 * lr.steps[-1] >= history.last_step)


def loss_scale(losses: Series, level: float) -> float:
    """Return what relative differences at this level refer to: the level, or 5% of the initial loss if larger.

    For a loss that changed its sign, which has no natural scale, it is at least a fifth of the change since the start.
    """
    known = drop_non_finite(losses).values
    if not len(known):
        return abs(level)
    first = float(known[0])
    change = MIN_CHANGE_FRACTION * abs(first - level) if first * level < 0 else 0.0
    return max(abs(level), MIN_LOSS_FRACTION * abs(first), change)


def drop_non_finite(series: Series) -> Series:
    keep = np.isfinite(series.values)
    return series if keep.all() else Series(series.steps[keep], series.values[keep])


def has_enough_points(history: History, thresholds: Thresholds) -> bool:
    """Return whether the losses have enough points to say anything of the run."""
    val, train = (drop_non_finite(history[name]) for name in ("val/loss", "train/loss"))
    return len(val) >= thresholds.min_points or len(train) >= MIN_TRAIN_ROWS


def completed_fraction(history: History) -> float:
    """Return the completed fraction of the run; 1 if its length is unknown."""
    total = history.facts.total_steps
    return 1.0 if not total or history.facts.status == "completed" else min(1.0, history.last_step / total)


def find_flattest_window(
    history: History, thresholds: Thresholds, fraction: float, until: float = math.inf
) -> tuple[float, TrendWindow] | None:
    """Return the window of one, two or four doublings that most surely is flat, and the confidence.

    Flat means falling by less than `fraction` of the loss per doubling. More doublings show a smaller fall through the
    same noise. One that rises is taken only if all do.
    """
    windows = [fit_trend_window(history, thresholds, until, doublings) for doublings in DOUBLINGS]
    found = []
    for window in filter(None, windows):
        bound = fraction * loss_scale(history[window.metric], window.trend.end)
        found.append((window.trend.slope <= bound, window.trend.confidence_above(-bound), window))
    best = max(found, key=lambda one: one[:2], default=None)
    return best[1:] if best else None


def fell_afterwards(history: History, window: TrendWindow, bound: float) -> bool:
    """Return whether the loss fell after the window, as it does if only the high LR kept it up."""
    losses = drop_non_finite(history[window.metric])
    later = losses.values[losses.steps > window.last]
    return len(later) > 0 and window.trend.end - float(np.median(later[-max(1, len(later) // 4) :])) > bound
