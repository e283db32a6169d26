"""Weighted sums of losses of several configurations with the same seeds, such as an interaction of two changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.evidence.statistics.sample_differences import (
    MIN_RELATIVE_ERROR,
    find_fewest_pairs,
    find_smallest_pair_level,
)

NO_SPREAD = "the same for every seed, so no interval; check that the seed changes the run"
NO_DIFFERENCE = "the losses are identical seed by seed; check that the change reached the training"


@dataclass(frozen=True)
class Contrast:
    """Mean over seeds of a weighted sum of losses, its interval, and a note if there is none.

    Without an interval, the ends are infinite and `p` is NaN.
    """

    value: float
    low: float
    high: float
    p: float
    note: str = ""

    @property
    def is_shown(self) -> bool:
        """True if the interval excludes zero."""
        return self.low > 0 or self.high < 0


def measure_contrast(samples: Sequence[np.ndarray], weights: Sequence[float], *, alpha: float) -> Contrast:
    """Return a weighted sum of samples of finite losses in the same order of seeds, with Student's t interval.

    The sum is taken seed by seed, so that what a seed does to all configurations cancels. The interval is extended to
    zero if there are fewer seeds than `find_fewest_pairs` of `alpha`, and `p` is at least what these seeds allow. Seeds
    that add the same to all configurations leave equal sums, whose interval is as narrow as rounding. There is none if
    a configuration has the same loss for every seed and the sum too, or all have the same losses.
    """
    losses = np.stack(samples)
    sums = np.tensordot(np.asarray(weights), losses, 1)
    n_seeds, value = len(sums), float(sums.mean())
    error, rounding = float(sums.std(ddof=1)) / math.sqrt(n_seeds), MIN_RELATIVE_ERROR * float(np.abs(losses).max())
    if not np.any(np.diff(losses, axis=0)):
        return Contrast(value, -math.inf, math.inf, math.nan, NO_DIFFERENCE)
    is_constant = float(np.ptp(losses, axis=1).min()) <= rounding
    if not error < math.inf or (error <= rounding and is_constant):
        return Contrast(value, -math.inf, math.inf, math.nan, NO_SPREAD)
    error = max(error, rounding)
    half_width = float(stdtrit(n_seeds - 1, 1 - alpha / 2)) * error
    low, high = value - half_width, value + half_width
    if n_seeds < find_fewest_pairs(alpha):
        low, high = min(low, 0.0), max(high, 0.0)
    p = max(float(2 * stdtr(n_seeds - 1, -abs(value) / error)), find_smallest_pair_level(n_seeds))
    return Contrast(value, low, high, p)
