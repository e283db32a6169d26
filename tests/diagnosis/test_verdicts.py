"""Verdicts at the edge of a rule: of losses from the first epoch on, through noise, near 0, rising a little."""

import math

import numpy as np
import pytest

from harness.diagnosis import diagnose
from harness.diagnosis.assessment import Assessment, assess
from harness.diagnosis.history import History
from tests.diagnosis.foreign_curves import build_log, draw_count, noisy

SEEDS = range(20)


def find(history: History) -> dict[str, str]:
    """Return the reason of each kind that is found."""
    return {one.kind: one.reason for one in diagnose(history)}


def judge(history: History) -> Assessment:
    return assess(history, None, diagnose(history))


def chance_level(seed: int, level: float) -> History:
    """Epochs of a classifier at the entropy of its labels, whose first training epoch is a little higher."""
    rng = np.random.default_rng([seed, 1])
    count = int(rng.integers(5, 40))
    train = noisy(rng, np.full(count, level), 10 ** rng.uniform(-4, -2.5))
    train[0] = level * (1 + rng.uniform(0.001, 0.006))
    val = noisy(rng, np.full(count, level), 10 ** rng.uniform(-4, -2.7))
    return build_log(train, val, steps_unit="epochs", first=int(rng.integers(2)))


@pytest.mark.parametrize("level", [math.log(2), math.log(3), math.log(10), math.log(1000), 1.0])
def test_a_loss_at_chance_from_the_first_epoch_has_never_learnt(level: float) -> None:
    found = [find(chance_level(seed, level)) for seed in SEEDS]
    assert sum(list(kinds) == ["never learnt"] for kinds in found) >= 0.9 * len(SEEDS)
    assert all("plateau" not in kinds for kinds in found)


def test_a_training_loss_that_falls_beside_flat_evaluations_has_learnt() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 2])
        count = int(rng.integers(5, 30))
        train = 0.6 * np.exp(-np.arange(count) / count * rng.uniform(0.3, 2))
        val = noisy(rng, np.full(count, 0.35), 0.0005)
        assert "never learnt" not in find(build_log(noisy(rng, train, 0.003), val, steps_unit="epochs"))


@pytest.mark.parametrize("first", [0, 1])
def test_a_log_from_the_first_or_second_epoch_on_has_its_start(first: int) -> None:
    losses = [2.3, 1.8, 1.5, 1.3, 1.15, 1.05, 1.0]
    text = "\n".join(judge(build_log(losses, np.add(losses, 0.2), first=first, steps_unit="epochs")).lines(False))
    assert "start of the run is not recorded" not in text
    excerpt = judge(build_log(losses, np.add(losses, 0.2), first=40, steps_unit="epochs"))
    assert "start of the run is not recorded" in "\n".join(excerpt.lines(False))


def test_a_positive_loss_is_not_projected_below_zero() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 3])
        count = draw_count(rng, 12, 300)
        at = np.arange(count) / count
        clean = 10 ** rng.uniform(-4, 2) * (np.exp(-at * rng.uniform(1, 9)) if seed % 2 else (1.02 - at) ** 2)
        train = noisy(rng, clean, 0.02)
        lines = judge(build_log(np.where(at > 0.95, 0.0, train) if seed % 5 == 0 else train, every=10)).slopes
        assert not any("at this rate -" in line for line in lines)
        crossing = judge(build_log(2 - 3 * at, every=10)).slopes
        assert any("at this rate -" in line for line in crossing)


def test_nothing_is_projected_beside_overfitting_and_divergence() -> None:
    overfit = build_log(np.geomspace(2, 0.1, 20), np.r_[np.linspace(2, 1, 8), np.linspace(1.05, 1.6, 12)])
    diverged = build_log([*np.linspace(9, 4, 30), math.nan])
    for history in (overfit, diverged):
        assert find(history)
        assert "at this rate" not in "\n".join(judge(history).slopes)


def test_a_surely_rising_loss_is_said_to_rise() -> None:
    healthy = 0
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 4])
        count = draw_count(rng, 12, 200)
        rising = rng.uniform(1, 9) * (1 + rng.uniform(0.02, 0.3) * np.arange(count) / count)
        history = build_log(noisy(rng, rising, 0.001), steps_unit="epochs")
        found = diagnose(history)
        if not found:
            assert assess(history, None, found).conclusion.startswith("train/loss rises: +")
        falling = build_log(noisy(rng, rising[::-1], 0.01), every=10)
        healthy += "rises" in judge(falling).conclusion
    assert healthy == 0


def test_an_undecided_plateau_is_not_called_free_of_problems() -> None:
    undecided = fine = 0
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 5])
        stalled = noisy(rng, 2 + 2 * np.exp(-np.arange(80) / 4), 0.03)
        found = diagnose(history := build_log(stalled, every=10))
        conclusion = assess(history, None, found).conclusion
        undecided += not found and conclusion.startswith("cannot tell whether it is a plateau: the slope of train/loss")
        fine += not found and conclusion.startswith("no problems found")
        learning = build_log(noisy(rng, 5 * np.arange(1, 81.0) ** -0.2, 0.02), every=10)
        assert judge(learning).conclusion.startswith("no problems found")
    assert (undecided >= 15, fine <= 3) == (True, True)


def test_rows_that_are_not_finite_are_counted() -> None:
    few = judge(build_log([3, 2.9, *[math.nan, 2.8, math.nan] * 3, 2.7], every=10))
    assert "0 finite evaluations and 6 finite training rows" in few.conclusion
    assert few.not_finite == ("train/loss: 6 of 12 rows are not finite, first at step 30",)
    evals = build_log(np.linspace(5, 3, 40), [4.5, 4.1, math.nan, 3.6, 3.3], every=10)
    assert "val/loss: 1 of 5 rows is not finite, first at step 240" in judge(evals).lines(True)
    assert judge(build_log(np.linspace(5, 3, 40))).not_finite == ()


def test_overfitting_states_the_rise_to_the_last_evaluation() -> None:
    reason = find(build_log([0.55, 0.33, 0.12], [0.42, 0.5, 0.71], steps_unit="epochs"))["overfitting"]
    assert reason.startswith("val/loss was best at epoch 1, 0.42, and rose by 0.29 (noise unknown) to 0.71 by epoch 3")


def test_a_rise_within_its_own_noise_is_no_overfitting() -> None:
    wrong = right = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 6])
        count = int(rng.integers(8, 40))
        at = np.arange(count) / count
        train = noisy(rng, 0.4 + 1.6 * np.exp(-at * 4), 0.005)
        clean = 0.7 + 1.3 * np.exp(-at * 4)
        wrong += "overfitting" in find(build_log(train, noisy(rng, clean, 0.03), steps_unit="epochs"))
        rises = noisy(rng, clean + 0.8 * np.maximum(0, at - 0.4), 0.01)
        right += "overfitting" in find(build_log(train, rises, steps_unit="epochs"))
    assert (wrong <= 1, right >= 50) == (True, True)


def test_evaluations_that_fall_far_beyond_their_noise_are_not_noisy() -> None:
    wrong = right = 0
    for seed in range(40):
        rng = np.random.default_rng([seed, 7])
        count = int(rng.integers(20, 90))
        at = np.arange(count) / count
        noise = rng.uniform(0.01, 0.03)
        fall = np.exp(-at * rng.uniform(2, 3))  # falls by 10 noise widths and more over the last half
        wrong += "noisy evaluation" in find(build_log(2 * fall, 2.2 * fall + noise * rng.standard_normal(count)))
        flat = 1 + np.exp(-at * 20) + 0.03 * rng.standard_normal(count)
        right += "noisy evaluation" in find(build_log(2 * fall, flat))
    assert (wrong, right >= 20) == (0, True)


def test_evaluations_that_jump_by_half_beside_a_flat_training_loss_are_not_cured_by_more_examples() -> None:
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 8])
        count = int(rng.integers(15, 40))
        val = rng.uniform(1, 3) * np.r_[1, 1.5 + rng.uniform(0.3, 0.55, count - 1) * (-1.0) ** np.arange(count - 1)]
        found = find(build_log(noisy(rng, np.full(count, 1.7), 0.01), val, steps_unit="epochs"))
        assert "noisy evaluation" not in found


def test_a_rise_of_a_low_or_restless_loss_is_named() -> None:
    named = [0, 0]
    for seed in SEEDS:
        rng = np.random.default_rng([seed, 9])
        count, level = draw_count(rng, 60, 400), rng.uniform(0.02, 0.3)
        doubled = level * (1 + rng.uniform(1, 2) * np.arange(count) / count)
        named[0] += bool({"rising loss", "divergence"} & find(build_log(noisy(rng, doubled, 0.04), every=10)).keys())
        restless = rng.uniform(2, 5, 100)
        text = judge(build_log(restless, lr=np.full(100, 0.5), steps_unit="epochs")).conclusion
        named[1] += "may stay flat" not in text and "no problems" not in text
    assert (named[0] >= 18, named[1] == len(SEEDS)) == (True, True)


def test_a_run_of_epochs_without_an_lr_is_projected_and_not_called_too_short() -> None:
    wrong = 0
    for seed in range(60):
        rng = np.random.default_rng([seed, 10])
        count = int(rng.integers(10, 51))
        at = np.arange(count) / count
        falls = (1 + 9 * at) ** -rng.uniform(0.35, 0.7) if seed % 2 else 0.15 + np.exp(-at * rng.uniform(1.5, 3))
        train, val = noisy(rng, 2.2 * falls, 0.005), noisy(rng, 2.4 * falls, 0.01)
        history = build_log(train, val if seed % 3 else None, steps_unit="epochs", first=int(rng.integers(2)))
        wrong += "underfitting" in find(history)
        assert "at this rate" in judge(history).slopes[-1]
    assert wrong <= 3
