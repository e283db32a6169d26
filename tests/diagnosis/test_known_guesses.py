"""Losses that stay at those of a uniform guess, and healthy ones that are near one by chance."""

import math

import numpy as np
import pytest

from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from tests.diagnosis.foreign_curves import build_log, noisy


@pytest.mark.parametrize(("count", "is_guess"), [(32000, True), (1000, True), (5000, False)])
def test_the_conclusion_on_two_rows_mentions_a_uniform_guess(count: int, is_guess: bool) -> None:
    log = build_log([round(math.log(count), 3)] * 2, every=300)
    assert (f"ln of {count:,}: that of a uniform guess" in assess(log).conclusion) == is_guess


@pytest.mark.parametrize("count", [10, 50, 32000])
def test_a_loss_that_ends_at_a_uniform_guess_never_learnt(count: int) -> None:
    level = math.log(count)
    rows = noisy(np.random.default_rng(count), np.r_[level * 1.1, level * 1.03, np.full(16, level)], 0.0003)
    assert "never learnt" in {one.kind for one in diagnose(build_log(rows, every=50))}


def test_a_loss_that_passes_or_varies_around_such_a_level_is_none() -> None:
    for seed in range(12):
        rng = np.random.default_rng(seed)
        for rows in (np.geomspace(2.7, math.log(10), 20), np.full(20, math.log(10)) + np.geomspace(0.6, 0.001, 20)):
            log = build_log(noisy(rng, rows, 0.02), every=50)
            assert "never learnt" not in {one.kind for one in diagnose(log)}
