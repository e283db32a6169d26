"""Slopes, intervals, baselines and noise of known curves."""

import numpy as np
import pytest
from scipy import stats

from harness.diagnosis.trend import Trend, bin_means, estimate_noise, fit_trend, rolling_baseline


def test_fit_trend_of_a_straight_line() -> None:
    line = fit_trend(np.arange(10.0), 3 - 0.5 * np.arange(10.0))
    assert line.slope == pytest.approx(-0.5)
    assert line.slope_error == pytest.approx(0, abs=1e-12)
    assert line.end == pytest.approx(-1.5)


def test_interval_covers_the_slope_even_with_autocorrelated_noise() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 400)
    covered = {0.0: 0, 0.8: 0}
    for correlation in covered:
        for _ in range(300):
            noise = rng.standard_normal(400)
            for at in range(1, 400):
                noise[at] += correlation * noise[at - 1]
            low, high = fit_trend(x, 2 * x + noise).interval(0.95)
            covered[correlation] += low < 2 < high
    assert covered[0.0] >= 0.92 * 300
    assert covered[0.8] >= 0.87 * 300


def test_confidence_and_interval_follow_students_t() -> None:
    trend = Trend(slope=2.0, slope_error=0.5, n=7, end=0.0)
    assert trend.confidence_above(1.0) == pytest.approx(stats.t.cdf(2.0, df=5))
    assert trend.interval(0.95) == pytest.approx(stats.t.interval(0.95, df=5, loc=2.0, scale=0.5))
    assert Trend(2.0, 0.0, 7, 0.0).confidence_above(1.0) == 1.0


def test_bin_means_have_equal_width() -> None:
    assert bin_means(np.arange(48.0)).tolist() == [2 * at + 0.5 for at in range(24)]


def test_rolling_baseline_depends_on_earlier_values_only() -> None:
    values = np.random.default_rng(1).standard_normal(300)
    changed = np.r_[values[:200], values[200:] + 50]
    for before, after in zip(rolling_baseline(values, 10), rolling_baseline(changed, 10), strict=True):
        assert np.array_equal(before[:201], after[:201], equal_nan=True)
        assert np.isnan(before[:10]).all()
    assert np.median(rolling_baseline(values, 10)[1][50:]) == pytest.approx(1, abs=0.25)


def test_estimate_noise_ignores_the_slope() -> None:
    rng = np.random.default_rng(2)
    x = np.linspace(0, 1, 200)
    assert estimate_noise(5 * np.exp(-3 * x) + 0.1 * rng.standard_normal(200)) == pytest.approx(0.1, rel=0.2)
