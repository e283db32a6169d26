"""Slope, level and noise of a curve, estimated robustly."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

MAD_TO_STD = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
MAX_BINS = 24  # bin means hardly depend on their neighbours (batch means; Schmeiser, 1982)


@dataclass(frozen=True)
class Trend:
    """A straight line fitted to `n` points; `end` is its value at the last one."""

    slope: float
    slope_error: float
    n: int
    end: float

    def interval(self, confidence: float) -> tuple[float, float]:
        """Return the two-sided confidence interval of the slope."""
        from scipy.special import stdtrit  # 0.3 s, which importers and sweeps do without

        reach = self.slope_error * float(stdtrit(self.n - 2, (1 + confidence) / 2))
        return self.slope - reach, self.slope + reach

    def confidence_above(self, slope: float) -> float:
        """Return the confidence, 0 to 1, that the slope is larger."""
        if self.slope_error == 0:
            return float(self.slope > slope)
        from scipy.special import stdtr

        return float(stdtr(self.n - 2, (self.slope - slope) / self.slope_error))


def fit_trend(x: np.ndarray, y: np.ndarray) -> Trend:
    """Fit a line to bin means by least squares.

    The standard error is that of Newey and West (1987), or that of independent points if larger.
    """
    x, y = bin_means(x), bin_means(y)
    n, centred = len(x), x - x.mean()
    spread = (centred**2).sum()
    slope = float((centred * y).sum() / spread)
    residuals = y - y.mean() - slope * centred
    plain = (residuals**2).sum() / (n - 2) / spread
    scores = centred * residuals
    total = (scores**2).sum()
    lags = math.floor(4 * (n / 100) ** (2 / 9))
    for lag in range(1, min(lags, n - 1) + 1):
        total += 2 * (1 - lag / (lags + 1)) * (scores[lag:] * scores[:-lag]).sum()
    robust = n / (n - 2) * total / spread**2
    end = float(y.mean() + slope * (x[-1] - x.mean()))
    return Trend(slope, math.sqrt(max(plain, robust)), n, end)


def bin_means(values: np.ndarray) -> np.ndarray:
    """Return the means of MAX_BINS bins of equal width; the values themselves if there are no more."""
    if len(values) <= MAX_BINS:
        return values
    edges = np.linspace(0, len(values), MAX_BINS + 1).astype(int)
    return np.add.reduceat(values, edges[:-1]) / np.diff(edges)


def rolling_baseline(
    values: np.ndarray, min_values: int, window: int = 50, stride: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    """Return the median of the `window` values before each value, and their robust standard deviation around it.

    Medians are taken over medians of `stride` values, so that later values never change earlier baselines. Both are
    NaN for the first `min_values`, which also pad the first windows.
    """
    baseline = _rolling_median_before(values, min_values, window, stride)
    if len(values) <= min_values:
        return baseline, baseline
    deviations = np.abs(values - np.where(np.isnan(baseline), np.median(values[:min_values]), baseline))
    return baseline, MAD_TO_STD * _rolling_median_before(deviations, min_values, window, stride)


def _rolling_median_before(values: np.ndarray, min_values: int, window: int, stride: int) -> np.ndarray:
    result = np.full(len(values), np.nan)
    if len(values) > min_values:
        padded = np.r_[np.resize(values[:min_values], window - min_values), values]
        count = len(padded) // stride
        blocks = np.median(padded[: count * stride].reshape(count, stride), axis=1)
        medians = np.median(sliding_window_view(blocks, window // stride), axis=1)
        result[min_values:] = np.repeat(medians, stride)[: len(values) - min_values]
    return result


def estimate_noise(values: np.ndarray) -> float:
    """Return the robust standard deviation of the noise on a smooth curve, from second differences.

    Source: Gasser, Sroka and Jennen-Steinmetz (1986).
    """
    second = values[2:] - 2 * values[1:-1] + values[:-2]
    return float(MAD_TO_STD * np.median(np.abs(second)) / math.sqrt(6))


def count_turns(values: np.ndarray) -> int:
    """Return how often the values change direction: noise at two thirds of its inner points, a smooth curve once."""
    signs = np.sign(np.diff(values))
    signs = signs[signs != 0]
    return int((signs[1:] != signs[:-1]).sum())
