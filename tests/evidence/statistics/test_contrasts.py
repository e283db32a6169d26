"""Weighted sums of losses: Student's interval, few seeds, and seeds that change nothing or all losses alike."""

import math

import numpy as np
import pytest
from scipy import stats

from harness.evidence.statistics.contrasts import NO_DIFFERENCE, NO_SPREAD, measure_contrast
from harness.evidence.statistics.sample_differences import find_fewest_pairs, find_smallest_pair_level

INTERACTION = (1.0, -1.0, -1.0, 1.0)
SEED_NOISE = np.random.default_rng(0).standard_normal(5)


def test_interval_and_p_are_those_of_student() -> None:
    losses = np.random.default_rng(1).standard_normal((4, 8))
    found = measure_contrast(losses, INTERACTION, alpha=0.02)
    oracle = stats.ttest_1samp(np.asarray(INTERACTION) @ losses, 0)
    assert (found.low, found.high) == pytest.approx(tuple(oracle.confidence_interval(0.98)))
    assert found.p == pytest.approx(oracle.pvalue)
    assert found.note == ""


@pytest.mark.parametrize("offset", [3.0, 1e6])
def test_seeds_that_add_the_same_to_all_leave_an_interval_without_width(offset: float) -> None:
    """The sum is then known but for rounding, whether it is zero or not."""
    additive = [offset + effect + SEED_NOISE for effect in (0.0, -0.1, -0.2, -0.3)]
    found = measure_contrast(additive, INTERACTION, alpha=0.05)
    assert found.low < 0 < found.high
    assert found.high - found.low < 1e-11 * offset
    assert not found.is_shown

    found = measure_contrast([*additive[:3], additive[3] - 0.4], INTERACTION, alpha=0.05)
    assert found.is_shown
    assert found.low < -0.4 < found.high
    assert found.high - found.low < 1e-11 * offset
    assert found.p == find_smallest_pair_level(5)


def test_seeds_that_do_nothing_leave_no_interval() -> None:
    for losses in ([[3.0] * 5, [2.0] * 5], [[3.0] * 5, [0.1 + 0.2] * 5]):
        found = measure_contrast(np.asarray(losses), (-1.0, 1.0), alpha=0.05)
        assert (found.low, found.high, found.note) == (-math.inf, math.inf, NO_SPREAD)
        assert math.isnan(found.p)
        assert not found.is_shown


def test_identical_losses_leave_no_interval() -> None:
    found = measure_contrast([SEED_NOISE, SEED_NOISE], (-1.0, 1.0), alpha=0.05)
    assert (found.value, found.note) == (0.0, NO_DIFFERENCE)
    assert not found.is_shown


@pytest.mark.parametrize("alpha", [0.05, 0.05 / 4, 0.05 / 6, 0.05 / 24])
def test_fewer_seeds_than_the_level_needs_show_nothing(alpha: float) -> None:
    """Also where the sum is the same for all seeds but for little noise."""
    fewest = find_fewest_pairs(alpha)
    assert find_smallest_pair_level(fewest) <= alpha < find_smallest_pair_level(fewest - 1)
    rng = np.random.default_rng(2)
    for n_seeds, is_shown in ((fewest - 1, False), (fewest, True)):
        baseline = rng.standard_normal(n_seeds)
        found = measure_contrast(
            [baseline, baseline - 1 + 1e-6 * rng.standard_normal(n_seeds)], (-1.0, 1.0), alpha=alpha
        )
        assert found.is_shown == is_shown == (found.p <= alpha)
