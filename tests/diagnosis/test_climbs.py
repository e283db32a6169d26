"""Excerpts of few rows that climb, and healthy ones that only look like it, of any level, interval and noise."""

import numpy as np
import pytest

from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from tests.diagnosis.foreign_curves import Rng, build_log, draw_interval, noisy

SEEDS = range(60)


def kinds_of(train: np.ndarray, rng: Rng, lr: bool = False) -> set[str]:
    first = int(rng.choice([0, 700, 52000]))
    log = build_log(train, every=draw_interval(rng), first=first, total_steps=int(rng.choice([0, 90000])) or None,
                    lr=[1e-4] * len(train) if lr else None)  # fmt: skip
    return {one.kind for one in diagnose(log)}


def accelerating(rng: Rng) -> np.ndarray:
    """Five to nine rows that rise one by one, ever more, to 1.3 to 4 times the first."""
    count, level = int(rng.integers(5, 10)), 10 ** rng.uniform(-0.2, 3)
    at = np.linspace(0, 1, count) ** rng.uniform(1.8, 3)
    return level * (1 + rng.uniform(0.3, 3) * at)


def turning(rng: Rng) -> np.ndarray:
    """A loss that stands still for a few rows, then climbs."""
    rows, count, level = int(rng.integers(3, 9)), int(rng.integers(6, 9)), 10 ** rng.uniform(-0.2, 2)
    climb = level * (1 + rng.uniform(0.4, 2) * np.arange(1, count) / count)
    return np.r_[noisy(rng, np.full(rows, level), 0.005), climb]


def steady(rng: Rng) -> np.ndarray:
    """Ten to twenty rows that rise by 12% to 40% in all, through little noise."""
    count, level = int(rng.integers(10, 21)), 10 ** rng.uniform(-0.2, 2)
    rise = rng.uniform(0.12, 0.4)
    return noisy(rng, level * (1 + rise * np.arange(count) / count), 0.05 * rise)


@pytest.mark.parametrize("make", [accelerating, turning, steady])
def test_climbs_are_named_and_a_lower_lr_is_suggested(make) -> None:  # type: ignore[no-untyped-def]
    found = []
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 1])
        found.append(kinds_of(make(rng), rng, lr=bool(seed % 2)) & {"divergence", "rising loss"})
    assert sum(map(len, found)) == sum(map(bool, found)) >= 0.95 * len(SEEDS)


def test_how_far_a_climb_went_decides_its_name() -> None:
    [little] = diagnose(build_log([2.0, 2.02, 2.1, 2.3, 2.65], every=10, first=4000, lr=[3e-4] * 5, total_steps=90000))
    assert little.kind == "rising loss"
    assert little.reason == (
        "train/loss rises: from step 4010 to 4050 it rose in each of the last 4 rows, from 2 to 2.65"
    )
    assert [one.value for one in little.suggestions] == [1e-4]
    [far] = diagnose(build_log([2.0, 2.02, 2.1, 2.6, 3.9], every=10, first=4000))
    assert far.kind == "divergence"
    assert far.reason == "train/loss was 2 at step 4010 and rose in each of 4 rows since, at 3.9"


def flat_noise(rng: Rng) -> np.ndarray:
    return noisy(rng, np.full(int(rng.integers(5, 21)), 10 ** rng.uniform(-1, 3)), rng.uniform(0.01, 0.25))


def falling_noise(rng: Rng) -> np.ndarray:
    count = int(rng.integers(5, 21))
    return noisy(rng, rng.uniform(1, 9) * np.linspace(1, rng.uniform(0.6, 0.95), count), rng.uniform(0.01, 0.2))


def running_mean(rng: Rng) -> np.ndarray:
    """The mean of all rows so far, of which the first ones were low: it comes to rest."""
    count = int(rng.integers(6, 16))
    rows = 3 * (1 - 0.4 * np.exp(-np.arange(count) / 0.7))
    return np.cumsum(rows) / np.arange(1, count + 1)


def summed_up(rng: Rng) -> np.ndarray:
    return np.cumsum(noisy(rng, np.full(int(rng.integers(5, 10)), rng.uniform(0.5, 9)), 0.1))


def flat_and_level(rng: Rng) -> np.ndarray:
    """Rows that rise by next to nothing."""
    return rng.uniform(1, 9) * (1 + 0.01 * np.linspace(0, 1, int(rng.integers(5, 20))))


@pytest.mark.parametrize("make", [flat_noise, falling_noise, running_mean, summed_up, flat_and_level])
def test_noise_means_and_sums_are_no_climb(make) -> None:  # type: ignore[no-untyped-def]
    wrong = 0
    for seed in range(200):
        rng = np.random.default_rng([seed, 2])
        wrong += bool(kinds_of(make(rng), rng) & {"divergence", "rising loss"})
    assert wrong <= 2


def test_a_run_that_goes_on_is_not_judged_by_five_rows() -> None:
    assert diagnose(build_log([2.0, 2.02, 2.1, 2.6, 3.9], source="")) == []


def test_a_rise_in_the_warmup_is_no_divergence_once_the_loss_is_far_below_its_start() -> None:
    rise = [5, 5.2, 14, 18, 17, 16, 15, 13, 12, 11, 10.5, 9, 7.5, 6.5, 5.6, 5]
    low = list(np.geomspace(4.8, 3.2, 28))
    assert "divergence" not in {one.kind for one in diagnose(build_log([*rise, *low], every=10))}
    assert "divergence" in {one.kind for one in diagnose(build_log([*rise, *np.linspace(4.98, 4.9, 28)], every=10))}
    assert "divergence" in {one.kind for one in diagnose(build_log(rise, every=10))}


def test_a_first_row_of_fewer_examples_is_no_start() -> None:
    sums = [31.0, *noisy(np.random.default_rng(4), np.geomspace(1900, 700, 17), 0.05)]
    log = build_log(sums, every=200, first=-200)
    assert "divergence" not in {one.kind for one in diagnose(log)}


def test_a_rising_loss_is_not_also_said_to_be_unjudged() -> None:
    log = build_log([2.0, 2.02, 2.1, 2.3, 2.65], every=10)
    unjudged = " ".join(assess(log, None, diagnose(log)).not_judged)
    assert "divergence" not in unjudged
    assert "never learnt" not in unjudged
    three = build_log([0.6, 0.4, 0.2], [0.5, 0.56, 0.71])
    assert "overfitting" not in " ".join(assess(three, None, diagnose(three)).not_judged)


def test_a_single_value_of_the_lr_is_not_multiplied() -> None:
    log = build_log([2.0, 2.02, 2.1, 2.3, 2.65], every=10)
    log.add_row(50, {"train/lr": 0.3})
    [suggestion] = diagnose(log)[0].suggestions
    assert (suggestion.value, suggestion.factor) == (None, 1 / 3)
