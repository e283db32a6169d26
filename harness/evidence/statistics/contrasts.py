"""Weighted sums of losses of several configurations with the same seeds, such as an interaction of two changes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.evidence.statistics.sample_differences import MIN_RELATIVE_ERROR

FEWEST_SEEDS = 3
NO_SPREAD = "the same for every seed, so no interval; check that the seed changes the run"
NO_DIFFERENCE = "the losses are identical seed by seed; check that the change reached the training"


@dataclass(frozen=True)
class Contrast:
    """Mean over seeds of a weighted sum of losses, its interval, and a note if there is none.

    The ends are infinite and `p` NaN where the sum does not vary.
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
    zero if there are fewer seeds than `find_fewest_seeds` of `alpha`, and `p` is at least what these seeds allow.
    """
    sums = np.tensordot(np.asarray(weights), np.stack(samples), 1)
    n_seeds, value = len(sums), float(sums.mean())
    error = float(sums.std(ddof=1)) / math.sqrt(n_seeds)
    if not MIN_RELATIVE_ERROR * float(np.abs(samples).max()) < error < math.inf:
        note = NO_SPREAD if np.any(np.diff(samples, axis=0)) else NO_DIFFERENCE
        return Contrast(value, -math.inf, math.inf, math.nan, note)
    half_width = float(stdtrit(n_seeds - 1, 1 - alpha / 2)) * error
    low, high = value - half_width, value + half_width
    if n_seeds < find_fewest_seeds(alpha):
        low, high = min(low, 0.0), max(high, 0.0)
    p = max(float(2 * stdtr(n_seeds - 1, -abs(value) / error)), _find_smallest_p(n_seeds))
    return Contrast(value, low, high, p)


def find_fewest_seeds(alpha: float) -> int:
    """Return the smallest number of seeds at which a t interval at two-sided level `alpha` may exclude zero."""
    n_seeds = FEWEST_SEEDS
    while _find_smallest_p(n_seeds) > alpha:
        n_seeds += 1
    return n_seeds


def _find_smallest_p(n_seeds: int) -> float:
    """Return the probability that a difference without effect is the same for all seeds, apart from little noise.

    Seeds that end in one of two basins make it so with at most 1/4 for each seed and sign, and then the t interval is
    as narrow as the little noise, whatever its level.
    """
    return 2 * 0.25**n_seeds
