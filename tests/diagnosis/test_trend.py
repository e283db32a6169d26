"""Slopes, intervals and what is usual, against what can be worked out otherwise."""

import numpy as np
import pytest

from harness.diagnosis.trend import Trend, bin_means, estimate_noise, fit_trend, rolling_baseline


def test_a_straight_line_has_its_slope_and_no_error() -> None:
    line = fit_trend(np.arange(10.0), 3 - 0.5 * np.arange(10.0))
    assert line.slope == pytest.approx(-0.5)
    assert line.slope_error == pytest.approx(0, abs=1e-12)
    assert line.end == pytest.approx(-1.5)


def test_the_interval_holds_the_slope_as_often_as_it_says_even_where_neighbours_depend_on_each_other() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 400)
    held = {0.0: 0, 0.8: 0}
    for carried in held:
        for _ in range(300):
            noise = rng.standard_normal(400)
            for at in range(1, 400):
                noise[at] += carried * noise[at - 1]
            low, high = fit_trend(x, 2 * x + noise).interval(0.95)
            held[carried] += low < 2 < high
    assert held[0.0] >= 0.92 * 300
    assert held[0.8] >= 0.87 * 300


@pytest.mark.parametrize(
    ("t", "dof", "share"), [(2.0, 3, 0.9303), (2.0, 20, 0.9704), (5.6, 2, 0.9848), (-1, 5, 0.1816)]
)
def test_confidence_follows_students_distribution(t: float, dof: int, share: float) -> None:
    assert Trend(t, 1.0, dof + 2, 0.0).confidence_above(0) == pytest.approx(share, abs=0.004)


def test_bins_are_means_of_equal_stretches() -> None:
    assert bin_means(np.arange(48.0)).tolist() == [2 * at + 0.5 for at in range(24)]


def test_what_is_usual_is_known_from_the_past_alone() -> None:
    values = np.random.default_rng(1).standard_normal(300)
    changed = np.r_[values[:200], values[200:] + 50]
    for one, other in zip(rolling_baseline(values, 10), rolling_baseline(changed, 10), strict=True):
        assert np.array_equal(one[:201], other[:201], equal_nan=True)
        assert np.isnan(one[:10]).all()
    assert np.median(rolling_baseline(values, 10)[1][50:]) == pytest.approx(1, abs=0.25)


def test_the_noise_of_a_smooth_curve_is_seen_through_its_slope() -> None:
    rng = np.random.default_rng(2)
    x = np.linspace(0, 1, 200)
    assert estimate_noise(5 * np.exp(-3 * x) + 0.1 * rng.standard_normal(200)) == pytest.approx(0.1, rel=0.2)
