"""The loss that a run is judged by, and whether it has moved since the start."""

import math
from typing import NamedTuple

import numpy as np

from harness.diagnosis.history import History, Series
from harness.diagnosis.plateau_window import MIN_TRAIN_ROWS, drop_non_finite, has_enough_points
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import bin_means, estimate_noise, fit_trend

NEGLIGIBLE_CHANGE = 0.001  # of the initial loss, noise or not
MIN_EVALS_FOR_NOISE = 6  # with fewer, the bend of the curve would pass for noise
MAX_START_Z = 3.5  # standard errors that early points may lie above the rest by chance: the highest of several means
MIN_ROWS_WITHOUT_TREND = 30  # show that nothing is learnt, if the fall is surely below MAX_UNSEEN_FALL
MAX_UNSEEN_FALL = 0.05  # of the initial loss, hidden by noise
MAX_START_INTERVALS = 2  # between two points, before the first one
N_START_ROWS = 5  # whose median is the initial loss of a noisy curve
# A training loss alone that need not fall: below this level (denoising), of both signs (policy gradients), or with
# rows that vary more than those of language models (adversarial).
LOW_LOSS, HIGH_NOISE = 0.5, 0.3
HIGH_LR = 0.01
MAX_IDLE_RISE = 0.5  # of its first rows


class FlatLoss(NamedTuple):
    """A loss that has not moved since the start, and the interval of its change."""

    name: str
    losses: Series
    low: float
    high: float

    @property
    def text(self) -> str:
        start, last = self.losses.values[0], self.losses.values[-1]
        return (
            f"{self.name} shows no trend in {len(self.losses)} points, from {start:.4g} to {last:.4g}: it changed by "
            f"{self.low:+.2g} to {self.high:+.2g}"
        )


def select_loss(history: History, thresholds: Thresholds) -> tuple[str, Series]:
    """Return the validation loss if it has enough evaluations or training rows are too few, else the training loss."""
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    use_val = len(val) >= thresholds.min_points or (len(val) > 1 and len(train) < MIN_TRAIN_ROWS)
    return ("val/loss", val) if use_val else ("train/loss", train)


def get_initial_loss(losses: Series) -> float | None:
    """Return the first loss if the curve goes back to the start of the run.

    It does if the first point lies in the first tenth, or is the first or second one that was due, as after epoch 1.
    """
    interval = float(np.median(np.diff(losses.steps))) if len(losses) > 1 else 0.0
    is_start = losses.steps[0] <= max(losses.steps[-1] / 10, MAX_START_INTERVALS * interval)
    return float(losses.values[0]) if is_start else None


def find_flat_loss(history: History, thresholds: Thresholds) -> FlatLoss | None:
    """Return the loss if it has not moved since the start of the run; None if it has, or need not move."""
    name, losses = select_loss(history, thresholds)
    train = drop_non_finite(history["train/loss"])
    if not has_enough_points(history, thresholds) or not get_initial_loss(losses) or may_stay_flat(history):
        return None
    if name == "val/loss" and has_surely_fallen(train, thresholds, thresholds.never_learnt_fall):
        return None  # it learns, if only the training set
    candidates = [(name, losses)]
    judges_train = name == "val/loss" and len(train) >= MIN_TRAIN_ROWS and get_initial_loss(train) is not None
    if judges_train and not has_surely_fallen(losses, thresholds):
        candidates.append(("train/loss", train))  # beside evaluations that vary too much to tell
    for name, losses in candidates:
        if _stood_still(losses, thresholds) or _has_no_trend(losses, thresholds):
            return FlatLoss(name, losses, *fit_whole_change(losses.values, thresholds)[1])
    return None


def may_stay_flat(history: History) -> bool:
    """Return whether there is only a training loss of a kind that can stay flat while the model learns."""
    losses, facts = drop_non_finite(history["train/loss"]).values, history.facts
    if len(history["val/loss"]) > 1 or facts.unigram_loss or facts.uniform_loss or len(losses) < N_START_ROWS:
        return False
    is_low = 0 < np.median(np.abs(losses[:N_START_ROWS])) < LOW_LOSS or 0 < np.median(np.abs(losses)) < LOW_LOSS
    return bool(is_low) or (has_no_scale(losses) and not has_high_lr(history))


def has_high_lr(history: History) -> bool:
    """Return whether the LR is far above those of adversarial models and policy gradients."""
    return max(history["train/lr"].values, default=history.facts.peak_lr or 0.0) >= HIGH_LR


def excuses_rise(history: History, rise: float) -> bool:
    """Return whether a loss of a kind that can stay flat while the model learns may rise by so much by chance."""
    if not may_stay_flat(history):
        return False
    return rise < MAX_IDLE_RISE * abs(float(np.median(drop_non_finite(history["train/loss"]).values[:N_START_ROWS])))


def has_no_scale(losses: np.ndarray) -> bool:
    """Return whether a loss is mostly noise around a level, or around 0, so that its slope means little."""
    if len(losses) < N_START_ROWS:
        return False
    level, noise = abs(float(np.median(losses))), estimate_noise(losses)
    return varies_around_zero(losses) or noise > HIGH_NOISE * level > 0


def varies_around_zero(losses: np.ndarray) -> bool:
    return bool(len(losses) and losses.min() < 0 < losses.max() and abs(np.median(losses)) < np.std(losses))


def drop_leading_zeros(losses: Series) -> Series:
    """Drop first values of exactly 0, which nothing was measured for."""
    nonzero = np.flatnonzero(losses.values)
    start = int(nonzero[0]) if len(nonzero) else 0
    return Series(losses.steps[start:], losses.values[start:])


def count_constant_end(values: np.ndarray) -> int:
    """Return how many of the last values are exactly the same; 0 for a loss of 0."""
    if not len(values) or not values[-1]:
        return 0
    differs = np.flatnonzero(values != values[-1])
    return len(values) - (int(differs[-1]) + 1 if len(differs) else 0)


def has_surely_fallen(losses: Series, thresholds: Thresholds, early_fall: float = NEGLIGIBLE_CHANGE) -> bool:
    """Return whether the loss has fallen, along a line or early, by more than its noise and than is negligible.

    A fall of the first rows alone, or of few rows, has to be `early_fall` of the first value.
    """
    if len(losses) < max(3, thresholds.min_points):
        return False
    start = abs(float(losses.values[0]))
    _, (_, high) = fit_whole_change(losses.values, thresholds)
    negligible = NEGLIGIBLE_CHANGE if len(losses) >= MIN_ROWS_WITHOUT_TREND else early_fall
    return high < -negligible * start or _starts_above(losses.values, early_fall * start)


def fit_whole_change(values: np.ndarray, thresholds: Thresholds) -> tuple[float, tuple[float, float]]:
    """Return the change of a line through the values from the first to the last one, and its interval."""
    trend, steps = fit_trend(np.arange(len(values), dtype=float), values), len(values) - 1
    low, high = trend.interval(thresholds.confidence)
    return trend.slope * steps, (low * steps, high * steps)


def _stood_still(losses: Series, thresholds: Thresholds) -> bool:
    """Return whether the change is small and within the noise, or negligible."""
    start, last = float(losses.values[0]), float(np.median(losses.values[1:][-3:]))
    small = thresholds.never_learnt_fall * abs(start)
    if losses.values.min() < start - small:
        return False
    noise = math.sqrt(2) * estimate_noise(losses.values) if len(losses) >= MIN_EVALS_FOR_NOISE else 0.0
    return abs(start - last) <= min(small, max(NEGLIGIBLE_CHANGE * abs(start), thresholds.overfit_z * noise))


def _has_no_trend(losses: Series, thresholds: Thresholds) -> bool:
    """Return whether a line through all points is surely flat, and no early part of the curve lies above the rest.

    Flat means a whole change of at most `never_learnt_fall`, with an interval of at most twice that; of many rows, five
    times that.
    """
    values, is_long = losses.values, len(losses) >= MIN_ROWS_WITHOUT_TREND
    if len(values) < max(3, thresholds.min_points):
        return False
    start = abs(float(np.median(values[:N_START_ROWS]) if is_long else values[0]))
    small = thresholds.never_learnt_fall * start
    reach = max(2 * small, MAX_UNSEEN_FALL * start) if is_long else 2 * small
    change, (low, high) = fit_whole_change(values, thresholds)
    is_small = -small <= change <= (reach / 2 if is_long else small)
    if not (is_small and -reach <= low <= 0 <= high <= 2 * reach):
        return False
    if _starts_above(values, small):
        return False
    bins = bin_means(values)
    bin_noise = estimate_noise(values) * math.sqrt(len(bins) / len(values))
    return float(bins[0] - bins.min()) <= 2 * small + MAX_START_Z * bin_noise  # it did not fall and come back


def _starts_above(values: np.ndarray, small: float) -> bool:
    """Return whether an early part lies above the rest: a fall at the very start hardly tilts a line."""
    noise, count = estimate_noise(values), 1
    while count <= len(values) // 4:
        if values[:count].mean() - np.median(values[count:]) > max(small, MAX_START_Z * noise / math.sqrt(count)):
            return True
        count *= 2
    return False
