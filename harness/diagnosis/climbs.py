"""Steady climbs of a training loss in logs of few rows, which are too short for a slope per doubling."""

import math
from typing import NamedTuple

import numpy as np

from harness.diagnosis.history import History, Series
from harness.diagnosis.loss_curves import drop_leading_zeros, fit_whole_change, may_stay_flat, varies_around_zero
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.thresholds import Thresholds

MAX_ROWS = 30  # more have a slope
MIN_RISES, MANY_RISES = 4, 6  # one after the other, up to the last row: chance makes them in 1 of 120 and of 5,040 logs
MIN_RISE_FRACTION, MANY_RISE_FRACTION = 0.25, 0.1  # of the loss, of so many rises
USUAL_DIFFERENCES = 6.0  # median differences of the rows up to the first rise, that few rises must add up to
LATE_SHARE = 0.25  # of the rise, in the second half of a climb, or in the last third of steady rows
MIN_STEADY_ROWS, MIN_STEADY_FRACTION = 8, 0.05
MIN_RANK_Z = 3.0  # standard deviations of Kendall's rank correlation with time
SUM_TOLERANCE = 2.0  # a loss that is summed up over the rows grows by its first value each


class LossClimb(NamedTuple):
    """A loss that rose from `before`, in the row at `step`, to `last` in `n_rises` rows one after the other."""

    step: int
    last_step: int
    before: float
    last: float
    n_rises: int

    @property
    def fraction(self) -> float:
        return (self.last - self.before) / abs(self.before) if self.before else math.inf


def find_climb(history: History) -> LossClimb | None:
    """Return the climb of the training loss, row by row up to the last one; None for noise, or a run that goes on."""
    losses = _select_rows(history)
    if losses is None:
        return None
    differences = np.diff(losses.values)
    n_rises = _count_last_rises(differences)
    if n_rises < MIN_RISES:
        return None
    start = len(losses) - 1 - n_rises
    climb = losses.values[start:]
    rise, scale = float(climb[-1] - climb[0]), loss_scale(losses, float(climb[0]))
    is_late = climb[-1] - climb[len(climb) // 2] >= LATE_SHARE * rise
    if n_rises >= MANY_RISES:
        is_sure = rise >= MANY_RISE_FRACTION * scale
    else:
        usual = float(np.median(np.abs(differences[: start + 1])))
        is_sure = rise >= max(MIN_RISE_FRACTION * scale, USUAL_DIFFERENCES * usual) and not may_stay_flat(history)
    if not (is_sure and is_late) or _is_sum(climb):
        return None
    return LossClimb(int(losses.steps[start]), int(losses.steps[-1]), float(climb[0]), float(climb[-1]), n_rises)


def find_steady_rise(history: History, thresholds: Thresholds) -> tuple[Series, float, tuple[float, float]] | None:
    """Return the rows of a training loss that surely rose all along, by how much, and the interval of that."""
    losses = _select_rows(history)
    if losses is None or len(losses) < MIN_STEADY_ROWS or may_stay_flat(history) or _is_sum(losses.values):
        return None
    change, (low, high) = fit_whole_change(losses.values, thresholds)
    scale = loss_scale(losses, float(losses.values[0]))
    is_far = change >= MIN_STEADY_FRACTION * scale and low >= thresholds.overfit_gap * scale
    if not (is_far and goes_on_rising(losses.values) and _rank_z(losses.values) >= MIN_RANK_Z):
        return None
    return losses, change, (low, high)


def goes_on_rising(values: np.ndarray) -> bool:
    """Return whether values that rise do so in each third; the mean of all rows so far comes to rest instead."""
    first, middle, last = (float(np.median(part)) for part in np.array_split(values, 3))
    return first < middle and last - middle >= LATE_SHARE * (last - first)


def _select_rows(history: History) -> Series | None:
    """Return the rows of a log that has ended, if they are few."""
    has_ended = bool(history.facts.source) or history.facts.status is not None
    losses = drop_leading_zeros(drop_non_finite(history["train/loss"]))
    is_few = MIN_RISES < len(losses) <= MAX_ROWS
    return losses if has_ended and is_few and not varies_around_zero(losses.values) else None


def _count_last_rises(differences: np.ndarray) -> int:
    falls = np.flatnonzero(differences <= 0)
    return len(differences) - (int(falls[-1]) + 1 if len(falls) else 0)


def _is_sum(values: np.ndarray) -> bool:
    """Return whether the values grow evenly from about 0, as the sum of a loss so far does."""
    steps = np.diff(values)
    return bool(0 < steps.max() < SUM_TOLERANCE * steps.min() and values[0] < SUM_TOLERANCE * np.median(steps))


def _rank_z(values: np.ndarray) -> float:
    """Return Kendall's rank correlation with time in its standard deviations without a trend (Kendall, 1938)."""
    n = len(values)
    signs = np.sign(values[None, :] - values[:, None])
    tau = float(np.triu(signs).sum()) / (n * (n - 1) / 2)
    return tau / math.sqrt(2 * (2 * n + 5) / (9 * n * (n - 1)))
