"""Faults and odd but healthy things in logs of strangers, one at a time."""

import math
import time
from dataclasses import replace

import numpy as np
import pytest

from harness.core.events import Diagnosis
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.history import History
from tests.diagnosis.foreign_curves import build_log, noisy, power_law

RNG = np.random.default_rng(11)
FALL = list(power_law(RNG, 60, 9.0, 3.0))
GOOD = [2.6, 2.55, 2.5]


def find(history: History) -> dict[str, Diagnosis]:
    return {one.kind: one for one in diagnose(history)}


def lr_factors(diagnosis: Diagnosis) -> list[float | None]:
    return [one.factor for one in diagnosis.suggestions if one.key == "optimizer.lr"]


DIVERGED = {
    "last row NaN, of a run a hundredth done": build_log([*GOOD, math.nan], total_steps=400),
    "NaN, then logged as 0": build_log([2.1, 2.0, math.nan, 0.0]),
    "no finite row": build_log([math.nan] * 3),
    "mostly NaN": build_log([*FALL, *[math.nan] * 5, 3.1, *[math.nan] * 4, 3.0, math.nan]),
    "ends finite among NaN": build_log([*FALL, *[math.nan] * 12, 3.1]),
    "norm NaN, loss 0": build_log([*GOOD, 0.0, 0.0, 0.0], norm=[1.0] * 3 + [math.nan] * 3),
    "loss 0, no norm": build_log([1.9, 1.8, 1.7, 0.0, 0.0, 0.0, 0.0]),
    "norm inf, loss gone": build_log(FALL[:20], norm=[1.0] * 20 + [math.inf] * 15),
    "norm NaN, loss stands still": build_log([*FALL[:9], *[5.0] * 9], norm=[1.0] * 9 + [math.nan] * 9),
    "three times as high in nine rows": build_log([2.1, 1.9, 4.4, 7.0, 6.6, 6.1, 6.2, 5.9, 6.0], every=30),
    "saturated softmax": build_log([2.3, 9.4, 87.3365, 87.3365, 87.3365], every=100),
    "evaluations alone": build_log(val=[1.2, 1.1, 4.0, 5.5, 5.0, 5.2, 5.1]),
}


@pytest.mark.parametrize("log", DIVERGED)
def test_divergence_of_short_logs(log: str) -> None:
    found = find(DIVERGED[log])
    assert list(found) == ["divergence"]
    assert all(factor is not None and factor < 1 for factor in lr_factors(found["divergence"]))


def test_a_single_nan_row_ends_a_log_but_not_a_run_that_goes_on() -> None:
    assert "divergence" not in find(build_log([*FALL, math.nan], total_steps=400, source=""))
    assert "divergence" in find(build_log([*FALL, math.nan, math.nan], total_steps=400, source=""))


def test_nan_evaluations_of_a_run_that_learns_ask_for_a_look_at_the_evaluation() -> None:
    diagnosis = find(build_log(FALL, [3.9, math.nan, math.nan]))["divergence"]
    assert "look at the evaluation first" in diagnosis.reason
    assert lr_factors(diagnosis) == []


HEALTHY = {
    "fp16 finds its loss scale": build_log(FALL, norm=[math.inf] * 4 + [1.0] * 56),
    "norm never logged right, loss falls": build_log(FALL, norm=[math.nan] * 60),
    "memorised down to 0": build_log([*np.geomspace(2, 1e-4, 40), 0.0, 0.0, 0.0, 0.0]),
    "a policy gradient of 0": build_log([0.0] * 30, norm=[0.2] * 30),
    "a first evaluation of 0": build_log(val=[0.0, 6.0, 4.8, 4.1, 3.7, 3.5, 3.4]),
    "one odd row": build_log([*FALL[:40], 4.9, *FALL[40:]], every=100),
    "an evaluation 1% worse, up and down": build_log(FALL, [3.5, 3.3, 3.2, 3.23, 3.19, 3.2]),
}


@pytest.mark.parametrize("log", HEALTHY)
def test_oddities_that_are_no_faults(log: str) -> None:
    assert find(HEALTHY[log]).keys() <= {"underfitting"}


def test_evaluations_that_rise_smoothly_by_little_are_overfitting_and_no_noise() -> None:
    val = [31.2, 31.0, 30.9, 30.86, 30.9, 31.0, 31.15]
    assert list(find(build_log(np.linspace(60, 45, 7), val))) == ["overfitting"]
    assert list(find(build_log(np.linspace(60, 59.5, 7), val))) != ["overfitting"]  # training has not fallen either
    noise = [0.61, 0.53, 0.51, 0.5, 0.499, 0.4985, 0.499, 0.5]
    assert find(build_log(np.geomspace(1, 0.2, 8), noise)) == {}  # nor a plateau, of so few


@pytest.mark.parametrize(("val", "is_overfit"), [([0.5, 0.56, 0.71], True), ([0.5, 0.51, 0.53], False),
                                                 ([0.5, 0.6, 0.58], False)])  # fmt: skip
def test_three_evaluations(val: list[float], is_overfit: bool) -> None:
    assert ("overfitting" in find(build_log([0.6, 0.4, 0.2], val))) == is_overfit
    assert "overfitting" not in find(build_log([0.6, 0.7, 0.9], val))


def test_memorised_training_data_beside_a_validation_loss_that_stands_still() -> None:
    reason = find(build_log([0.4, 0.01, 0.004, 0.002, 0.001], [0.31, 0.305, 0.309, 0.311, 0.308]))["overfitting"].reason
    assert reason.startswith("train/loss is 0.002 and val/loss 0.308, which has not fallen since ")
    val = [5.0, 5.0, 4.6, 5.2, 4.9, 5.3, 4.8, 5.2, 4.9, 5.4, 4.7, 5.3, 4.9, 5.2, 4.8, 5.3]
    assert "overfitting" in find(build_log(np.geomspace(8, 2, 16), val))
    assert "overfitting" not in find(build_log(np.geomspace(8, 2, 16), np.geomspace(8, 4, 16)))


def test_a_constant_loss_is_stuck_and_never_learnt() -> None:
    stuck = find(build_log([0.69, 3.4, 8.8, 1.2, *[0.693147] * 16], every=50))
    assert list(stuck) == ["never learnt"]
    assert "is exactly 0.693147 in all 16 rows since step 250" in stuck["never learnt"].reason


def test_a_spike_of_few_rows_has_come_back_or_not() -> None:
    back = find(build_log([2.7, 2.72, 2.69, 6.1, 4.0, 3.1, 2.75, 2.71], every=10, first=5000))
    assert list(back) == ["spike"]
    assert "it was back at step 50" in back["spike"].reason
    stays = find(build_log([2.7, 2.72, 2.69, 7.9, 7.2, 6.6, 6.0, 5.4], every=10, first=5000))
    assert "it has not come back" in stays["spike"].reason


def test_a_loss_that_may_stay_flat_is_not_said_to_have_never_learnt() -> None:
    history = build_log(0.12 * np.exp(0.3 * RNG.standard_normal(200)), every=10, lr=np.full(200, 1e-4))
    found = diagnose(history)
    assert found == []
    assert "diffusion, adversarial or policy gradient model may stay flat" in assess(history, None, found).conclusion


def test_two_values_of_the_lr_are_no_schedule() -> None:
    history = build_log(val=[6.0, 5.0, 4.2, *[3.5] * 37], eval_every=25)
    history.add_row(1000, {"train/lr": 0.3})
    plateau = find(history)["plateau"]
    assert "the LR is not in the log" in plateau.reason
    assert lr_factors(plateau) == []


def test_a_plateau_suggests_a_decay_and_never_a_higher_lr_beside_it() -> None:
    train, lr = noisy(RNG, np.geomspace(9, 3, 400), 0.01), np.full(400, 1e-3)
    val = noisy(RNG, 4 + 3 * np.exp(-np.arange(20) / 0.7), 0.0003)
    val[-1] = val.min() * 0.9999  # still a new best, so it does not overfit
    only_val = build_log(train, val, lr=lr)
    flat = build_log(noisy(RNG, 3 + 6 * np.exp(-np.arange(400) / 9), 0.003), lr=lr)
    for history in (only_val, flat):
        assert [one.key for one in find(history)["plateau"].suggestions] == ["schedule"]
    flat.facts = replace(flat.facts, lr_band=(3e-3, 0.1))
    found = find(flat)
    assert found["plateau"].suggestions == ()
    assert float(found["learning rate too low"].suggestions[0].value) > 3e-3


def test_underfitting_needs_an_lr_at_its_peak_or_a_fall_that_no_decay_explains() -> None:
    steps = np.arange(1, 401)
    usual, steep = 9 * (1 + steps / 20) ** -0.2, 9 * (1 + steps / 20) ** -0.6
    peak, decayed = np.full(400, 1e-3), np.linspace(1e-3, 0, 400)
    assert "underfitting" in find(build_log(usual, lr=peak))
    assert "underfitting" not in find(build_log(usual))
    assert "underfitting" not in find(build_log(steep, lr=decayed))
    assert "underfitting" not in find(build_log(steep))
    orders = 9 / (1 + steps / 20) ** 1.5
    assert "underfitting" in find(build_log(orders, orders[39::40]))
    assert "underfitting" not in find(build_log(steep, [4, 3.6, 3.5, 3.49, 3.49, 3.49]))


def test_assessment_says_where_the_loss_leads_and_what_speaks_against_it() -> None:
    train, lr = 2 + 2.5 * np.arange(1, 401.0) ** -0.2, np.full(400, 1e-3)
    [line, *_] = assess(build_log(train, every=10, lr=lr)).slopes
    assert "from step 2000 to 4000, 201 of 400 points: falling, at this rate 2.643 by step 8000" in line
    assert line.endswith("8000")
    assert assess(build_log(train, every=10)).slopes[0].endswith("by step 8000, unless the LR has decayed")
    decayed = assess(build_log(train, every=10, lr=np.linspace(1e-3, 0, 400))).slopes[0]
    assert decayed.endswith("though the fall at the end of a decaying LR does not go on")
    tail = assess(build_log([2.5, 2.4, 2.3, 2.2], every=10, first=9000)).slopes[0]
    assert "-0.3 over the whole record" in tail
    assert "at this rate" not in tail


def test_a_steep_fall_is_projected_by_its_ratio_and_never_below_zero() -> None:
    history = build_log(8.0 / np.arange(1, 41), steps_unit="epochs")
    assert "at this rate 0.1 " in assess(history).slopes[0]
    assert assess(history).slopes[0].endswith("by epoch 80, unless the LR has decayed")


def test_200_000_rows_are_diagnosed_at_once() -> None:
    count = 200_000
    train = noisy(RNG, power_law(RNG, count, 9, 3), 0.02)
    history = build_log(train, train[::5000], lr=np.full(count, 1e-3), norm=np.ones(count))
    start = time.process_time()
    assess(history, None, diagnose(history))
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("losses", "has_diverged"),
    [
        ([5512.0, 4900.0, 5300.0], True),
        ([3.7, 3.5, 60.0, 55.0, 58.0], True),
        ([310.0, 120.0, 40.0, 15.0], False),  # a large start that falls
        ([5.0, 4.4, 4.0], False),
    ],
)
def test_a_loss_far_above_that_of_a_guess_has_diverged(losses: list[float], has_diverged: bool) -> None:
    history = build_log(losses, every=5)
    history.facts = replace(history.facts, uniform_loss=math.log(50), total_steps=100)
    assert ("divergence" in find(history)) == has_diverged
