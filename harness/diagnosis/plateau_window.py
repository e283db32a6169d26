"""The part of a run that tells whether it still learns: its last doublings near the peak LR."""

import math
from dataclasses import dataclass

import numpy as np

from harness.diagnosis.history import History, Series
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import Trend, fit_trend

PEAK_TOLERANCE = 0.99
MIN_LOSS_SHARE = 0.05
"""Of the first loss: below it, differences count against that, or all is a large share of a loss that is nearly 0."""
MIN_DOUBLINGS_SHARE = 0.6
"""Share of the doublings asked for that a stretch has to reach over."""


MIN_TRAIN_ROWS = 10
"""Of the training loss, which is noisier than an evaluation."""
ROUNDING_SHARE = 1e-6
"""Of the loss: below it, what is left is rounding."""


@dataclass(frozen=True)
class TrendWindow:
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
    def fall_per_doubling(self) -> float:
        """Of the loss, over a doubling."""
        return -self.trend.slope

    @property
    def change_text(self) -> str:
        """How, in words."""
        if abs(self.fall_per_doubling) < ROUNDING_SHARE * abs(self.trend.end):
            return "stood still"
        return f"{'fell' if self.fall_per_doubling >= 0 else 'rose'} by {abs(self.fall_per_doubling):.2g} per doubling of {self.unit}"

    def to_evidence(self, confidence: float) -> dict[str, float | str]:
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
    history: History, limits: Thresholds, until: float = math.inf, doublings: float = 1.0
) -> TrendWindow | None:
    """As it was at step `until`: of the validation loss where it has points enough, else of the training loss; None
    where neither has, or where it does not reach as far back as asked."""
    begin, end = find_peak_lr_steps(history, limits)
    for name in ("val/loss", "train/loss"):
        series = drop_non_finite(history[name])
        found = _fit_series(history, name, series, (begin, min(end, until)), limits, doublings) if len(series) else None
        if found:
            return found
    return None


def _fit_series(
    history: History, name: str, series: Series, ends: tuple[int, float], limits: Thresholds, doublings: float
) -> TrendWindow | None:
    tokens = history.tokens_at(series.steps)
    amounts = series.steps.astype(float) if tokens is None else tokens
    inside = (series.steps >= max(1, ends[0])) & (series.steps <= ends[1])
    if not inside.any():
        return None
    last = np.flatnonzero(inside)[-1]
    if limits.plateau_steps:
        inside &= series.steps >= series.steps[last] - limits.plateau_steps
        is_whole = series.steps[last] - series.steps[0] >= limits.plateau_steps
    else:
        inside &= amounts >= amounts[last] / 2**doublings
        is_whole = math.log2(amounts[last] / amounts[inside][0]) >= MIN_DOUBLINGS_SHARE * doublings
    if inside.sum() < (max(3, limits.fewest) if name == "val/loss" else MIN_TRAIN_ROWS) or not is_whole:
        return None
    steps, x = series.steps[inside], np.log2(amounts[inside])
    unit = "steps" if tokens is None else "tokens"
    counted = float(amounts[inside][0]), float(amounts[last])
    line = fit_trend(x, series.values[inside])
    return TrendWindow(name, int(steps[0]), int(steps[-1]), unit, counted, float(x[-1] - x[0]), line)


def find_peak_lr_steps(history: History, limits: Thresholds) -> tuple[int, int]:
    """The steps between which the LR was at its peak for the first time and no longer a good share of it; the whole
    run where the LR is not known."""
    lr = history["train/lr"]
    if not len(lr) or not lr.values.max() > 0:
        return history.facts.warmup_steps or 0, history.last_step
    peak = lr.values.max()
    begin = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * peak)])
    high = np.flatnonzero(lr.values >= limits.peak_share * peak)[-1]
    return begin, history.last_step if high == len(lr) - 1 else int(lr.steps[high])


def loss_scale(losses: Series, level: float) -> float:
    """What a difference at this level of these losses is a share of."""
    known = drop_non_finite(losses).values
    return max(abs(level), MIN_LOSS_SHARE * abs(known[0])) if len(known) else abs(level)


def drop_non_finite(series: Series) -> Series:
    keep = np.isfinite(series.values)
    return series if keep.all() else Series(series.steps[keep], series.values[keep])


def completed_share(history: History) -> float:
    """Of the run; all of it where its length is not known or it was gone through."""
    total = history.facts.total_steps
    return 1.0 if not total or history.facts.status == "completed" else min(1.0, history.last_step / total)
