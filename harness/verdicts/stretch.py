"""The part of a run that tells whether it still learns: its last doubling near the peak LR."""

from dataclasses import dataclass

import numpy as np

from harness.verdicts.history import History, Series
from harness.verdicts.thresholds import Thresholds
from harness.verdicts.trend import Trend, trend

AT_PEAK = 0.99
SHORTEST = 0.4
"""Doublings below which a stretch tells nothing of a doubling."""


@dataclass(frozen=True)
class Stretch:
    """The curve of `metric` from step `first` to `last`, over which what was trained on grew by `doublings`."""

    metric: str
    first: int
    last: int
    unit: str
    """tokens or steps: what was counted, from `amounts[0]` to `amounts[1]`."""
    amounts: tuple[float, float]
    doublings: float
    trend: Trend

    @property
    def fall(self) -> float:
        """Of the loss, over a doubling."""
        return -self.trend.slope

    def evidence(self, confidence: float) -> dict[str, float | str]:
        low, high = self.trend.interval(confidence)
        return {
            "metric": self.metric,
            "from step": self.first,
            "to step": self.last,
            f"from {self.unit}": self.amounts[0],
            f"to {self.unit}": self.amounts[1],
            "fall per doubling": self.fall,
            "at least": -high,
            "at most": -low,
            "points": self.trend.n,
            "loss": self.trend.end,
        }


def stretch(history: History, limits: Thresholds) -> Stretch | None:
    """Of the validation loss where it has points enough, else of the training loss; None where neither has."""
    begin, end = near_peak(history, limits)
    for name in ("val/loss", "train/loss"):
        series = finite(history[name])
        found = _cut(history, name, series, begin, end, limits) if len(series) else None
        if found:
            return found
    return None


def _cut(history: History, name: str, series: Series, begin: int, end: int, limits: Thresholds) -> Stretch | None:
    inside = (series.steps >= max(1, begin)) & (series.steps <= end)
    tokens = history.tokens(series.steps)
    amounts = series.steps.astype(float) if tokens is None else tokens
    if not inside.any():
        return None
    if limits.plateau_steps:
        if end - series.steps[0] < limits.plateau_steps:
            return None
        inside &= series.steps >= end - limits.plateau_steps
    else:
        inside &= amounts >= amounts[inside][-1] / 2
    if inside.sum() < max(3, limits.fewest):
        return None
    steps, values, x = series.steps[inside], series.values[inside], np.log2(amounts[inside])
    if not limits.plateau_steps and x[-1] - x[0] < SHORTEST:
        return None
    unit = "steps" if tokens is None else "tokens"
    ends = float(amounts[inside][0]), float(amounts[inside][-1])
    return Stretch(name, int(steps[0]), int(steps[-1]), unit, ends, float(x[-1] - x[0]), trend(x, values))


def near_peak(history: History, limits: Thresholds) -> tuple[int, int]:
    """The steps between which the LR was at its peak for the first time and no longer a good share of it; the whole
    run where the LR is not known."""
    lr = history["train/lr"]
    if not len(lr) or not lr.values.max() > 0:
        return history.facts.warmup_steps or 0, history.last_step
    peak = lr.values.max()
    begin = int(lr.steps[np.argmax(lr.values >= AT_PEAK * peak)])
    high = np.flatnonzero(lr.values >= limits.peak_share * peak)[-1]
    return begin, history.last_step if high == len(lr) - 1 else int(lr.steps[high])


def finite(series: Series) -> Series:
    keep = np.isfinite(series.values)
    return series if keep.all() else Series(series.steps[keep], series.values[keep])


def share_done(history: History) -> float:
    """Of the run; all of it where its length is not known or it is over."""
    total = history.facts.total_steps
    return 1.0 if not total or history.facts.status else min(1.0, history.last_step / total)
