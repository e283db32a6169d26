"""Slopes, levels and noise of a curve, as robust as they are simple."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

MAD_TO_STD = 1.4826
"""A normal distribution's standard deviation over its median absolute deviation."""
MAX_BINS = 24
"""Means over bins leave little of the dependence between neighbours (batch means; Schmeiser, 1982)."""


@dataclass(frozen=True)
class Trend:
    """A straight line through `n` points: its slope, the standard error of that, and where it ends."""

    slope: float
    slope_error: float
    n: int
    end: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Two-sided, of the slope."""
        reach = self.slope_error * _quantile((1 + confidence) / 2, self.n - 2)
        return self.slope - reach, self.slope + reach

    def confidence_above(self, slope: float) -> float:
        """Confidence, 0 to 1, that the slope is larger."""
        if self.slope_error == 0:
            return float(self.slope > slope)
        return _cumulative((self.slope - slope) / self.slope_error, self.n - 2)


def fit_trend(x: np.ndarray, y: np.ndarray) -> Trend:
    """Least squares over bin means, its error by Newey and West (1987) and never below that of independent points."""
    x, y = bin_means(x), bin_means(y)
    n, off = len(x), x - x.mean()
    spread = (off**2).sum()
    slope = float((off * y).sum() / spread)
    left = y - y.mean() - slope * off
    plain = (left**2).sum() / (n - 2) / spread
    parts = off * left
    total = (parts**2).sum()
    lags = math.floor(4 * (n / 100) ** (2 / 9))
    for lag in range(1, min(lags, n - 1) + 1):
        total += 2 * (1 - lag / (lags + 1)) * (parts[lag:] * parts[:-lag]).sum()
    robust = n / (n - 2) * total / spread**2
    end = float(y.mean() + slope * (x[-1] - x.mean()))
    return Trend(slope, math.sqrt(max(plain, robust)), n, end)


def bin_means(values: np.ndarray) -> np.ndarray:
    """Means over MOST_BINS stretches of equal length; the values themselves where there are few."""
    if len(values) <= MAX_BINS:
        return values
    edges = np.linspace(0, len(values), MAX_BINS + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def rolling_baseline(
    values: np.ndarray, least: int, window: int = 50, stride: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Median of the `window` values before each one, of medians of `stride`, and the same of how far they lay off it,
    as a standard deviation. NaN before the first `least`, which stand in for earlier ones; later values change none."""
    middle = _rolling_median_before(values, least, window, stride)
    if len(values) <= least:
        return middle, middle
    off = np.abs(values - np.where(np.isnan(middle), np.median(values[:least]), middle))
    return middle, MAD_TO_STD * _rolling_median_before(off, least, window, stride)


def _rolling_median_before(values: np.ndarray, least: int, window: int, stride: int) -> np.ndarray:
    result = np.full(len(values), np.nan)
    if len(values) > least:
        longer = np.r_[np.resize(values[:least], window - least), values]
        count = len(longer) // stride
        blocks = np.median(longer[: count * stride].reshape(count, stride), axis=1)
        medians = np.median(sliding_window_view(blocks, window // stride), axis=1)
        result[least:] = np.repeat(medians, stride)[: len(values) - least]
    return result


def estimate_noise(values: np.ndarray) -> float:
    """Robust standard deviation of the noise on a smooth curve, from second differences (Gasser et al., 1986)."""
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    return float(MAD_TO_STD * np.median(np.abs(second)) / math.sqrt(6))


def _quantile(share: float, dof: int) -> float:
    """Of Student's distribution above one half, to 4% from 2 degrees of freedom on (Wallace, 1959)."""
    z = NormalDist().inv_cdf(share) * (8 * dof + 3) / (8 * dof + 1)
    return math.sqrt(dof * math.expm1(z**2 / dof))


def _cumulative(t: float, dof: int) -> float:
    """Of Student's distribution, the inverse of `_quantile`."""
    z = (8 * dof + 1) / (8 * dof + 3) * math.sqrt(dof * math.log1p(t**2 / dof))
    return NormalDist().cdf(math.copysign(z, t))
