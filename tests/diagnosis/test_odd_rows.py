"""Single rows that are odd: not finite, or far above the rest because the batches are small."""

import math

import numpy as np
import pytest

from harness.core.events import Diagnosis
from harness.diagnosis import diagnose
from harness.diagnosis.history import History
from tests.diagnosis.foreign_curves import build_log, draw_interval, noisy, power_law

SEEDS = range(12)


def find(history: History) -> dict[str, Diagnosis]:
    return {one.kind: one for one in diagnose(history)}


def test_a_row_that_is_not_finite_is_named_without_a_setting_to_change() -> None:
    found = find(build_log([1.8, 1.2, math.nan, 1.1], every=20))
    assert list(found) == ["spike"]
    assert found["spike"].reason.startswith("the loss was not finite at step 60; it was back at step 80, at 1.1. ")
    assert found["spike"].suggestions == ()


def test_rows_that_are_not_finite_are_named_once() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        train = noisy(rng, power_law(rng, int(rng.integers(30, 600)), 9, 3), 0.02)
        bad = rng.choice(np.arange(3, len(train) - 2), 4, replace=False)
        train[bad] = rng.choice([math.nan, math.inf])
        every = draw_interval(rng)
        spikes = [one for one in diagnose(build_log(train, every=every)) if one.kind == "spike"]
        assert len(spikes) == 1
        assert f"in 4 of {len(train)} rows, first at step {every * (bad.min() + 1)};" in spikes[0].reason


def test_a_loss_that_is_not_finite_again_and_again_is_divergence() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        train = noisy(rng, np.geomspace(4, 2, 60), 0.02)
        train[30:58][rng.random(28) < 0.6] = math.nan
        train[30] = math.nan
        assert list(find(build_log(train, every=10))) == ["divergence"]


@pytest.mark.parametrize("rows", [
    [math.nan, math.nan, 3.0, 2.5, 2.2, 2.0],  # the search for a loss scale, or placeholders
    [3.0, math.nan, math.nan, 2.5, math.nan, math.nan, 2.2, math.nan, math.nan, 2.0],  # logged every third row
])  # fmt: skip
def test_placeholders_are_no_lost_rows(rows: list[float]) -> None:
    assert find(build_log(rows, every=10)) == {}


def test_a_run_that_goes_on_is_not_alarmed_by_a_skipped_update() -> None:
    assert find(build_log([3.0, 2.8, math.nan, 2.5, 2.4, 2.3], source="")) == {}


def heavy_tailed(rng: np.random.Generator) -> np.ndarray:
    """Losses of small batches, over orders of magnitude around a level that falls."""
    count = int(rng.integers(1000, 5000))
    level = 0.02 + 0.4 / (1 + np.arange(count) / 100)
    return level * np.exp(rng.uniform(1.2, 1.9) * rng.standard_normal(count))


def test_losses_over_orders_of_magnitude_have_no_spikes() -> None:
    found = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        found.append("spike" in find(build_log(heavy_tailed(rng), every=10)))
    assert sum(found) <= 1


def test_a_spike_stands_out_of_odd_rows() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        train = noisy(rng, power_law(rng, 800, 8, 3), 0.01)
        train[rng.choice(np.arange(50, 800), 20, replace=False)] *= 1.4
        train[600:612] *= 1 + 0.8 * np.exp(-np.arange(12) / 5)
        spikes = [one.step for one in diagnose(build_log(train, every=5)) if one.kind == "spike"]
        assert any(3000 <= step <= 3060 for step in spikes)
