"""Asked for against in force, on schedulers of torch and on a plain function."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from harness.preflight import Finding, TrainingSetup
from harness.preflight.effective_settings import check
from tests.preflight.healthy_trainings import PEAK, ROWS, STEPS, Training


def subject(schedule: Callable[[torch.optim.Optimizer], Any] | None = None, **asked: Any) -> TrainingSetup:
    """With another schedule, of which nobody says what its course should be."""
    training = Training()
    if schedule is not None:
        training.set_optimizer(training.model.parameters())
        training.optimizer.param_groups[0]["lr"] = training.optimizer.param_groups[0]["initial_lr"] = PEAK
        training.schedule = schedule(training.optimizer)
    made = training.make_setup()
    made.asked = replace(made.asked, **({"multiplier": None, "warmup_steps": None} if schedule else {}) | asked)
    return made


def findings(of: TrainingSetup) -> dict[str, Finding]:
    with of.preserved_state():
        return {finding.what: finding for finding in check(of)}


def test_what_is_as_asked_passes_and_says_its_numbers() -> None:
    found = findings(subject())
    assert {finding.level for finding in found.values()} == {"pass"}
    assert "0.00463 at step 3" in found["peak LR"].seen  # 5e-3 * 37/40: the decay begins with the warm-up
    assert f"{ROWS} examples a step" in found["batch size"].seen


def test_the_factor_by_which_an_lr_is_too_high_is_told() -> None:
    peak = findings(subject(lr=PEAK / 4))["peak LR"]
    assert peak.level == "fail"
    assert "x4 of what was asked for" in peak.seen
    assert "number of devices" in peak.look_at


def test_a_capped_lr_is_told_as_one_that_is_not_reached() -> None:
    peak = findings(subject(lr=PEAK * 2))["peak LR"]
    assert (peak.level, "x0.5" in peak.seen) == ("fail", True)
    assert "cap" in peak.look_at


def test_an_lr_that_is_always_0_fails_as_a_peak_that_is_not_reached() -> None:
    found = findings(subject(lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)))
    assert [name for name, finding in found.items() if finding.level == "fail"] == ["peak LR"]


def test_a_warm_up_of_which_nothing_is_left_fails_and_one_that_rounds_to_nothing_warns() -> None:
    constant = lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0)  # noqa: E731
    assert findings(subject(constant, warmup_steps=0.1 * STEPS))["warm-up"].level == "fail"
    assert findings(subject(constant, warmup_steps=0.3))["warm-up"].level == "warn"
    assert "warm-up" not in findings(subject(constant, warmup_steps=0))


def test_a_warm_up_of_another_length_fails() -> None:
    tenfold = lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20)  # noqa: E731
    found = findings(subject(tenfold, warmup_steps=4))["warm-up"]
    assert found.level == "fail"
    assert "from step 20 on" in found.seen
    assert findings(subject(tenfold, warmup_steps=20))["warm-up"].level == "pass"


@pytest.mark.parametrize(
    ("length", "level"), [(STEPS, "pass"), (STEPS // 4, "warn"), (3 * STEPS, "warn")], ids=["its own", "short", "long"]
)
def test_a_cosine_is_as_long_as_the_run(length: int, level: str) -> None:
    found = findings(subject(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length)))["schedule"]
    assert found.level == level, found
    assert level == "pass" or f"at step {length} of {STEPS}" in found.seen


def test_an_lr_that_is_0_for_most_of_the_run_fails() -> None:
    falling = lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=10)  # noqa: E731
    assert findings(subject(falling))["schedule"].level == "fail"


@pytest.mark.parametrize(
    "schedule",
    [
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=STEPS),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 15),
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.97),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, PEAK, total_steps=STEPS),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) ** -0.5),
    ],
    ids=["linear to a half", "steps", "exponential", "one cycle", "inverse root"],
)
def test_schedules_of_every_kind_are_as_long_as_the_run(schedule: Callable[[torch.optim.Optimizer], Any]) -> None:
    assert {finding.level for finding in findings(subject(schedule)).values()} == {"pass"}


def test_a_course_that_runs_ahead_of_the_one_asked_for_says_how_much() -> None:
    made = subject(warmup_steps=None, multiplier=lambda step: 1 - step / STEPS)
    made.lrs = lambda step: {"group0": PEAK * max(0.0, 1 - 3 * step / STEPS)}
    found = findings(made)["schedule"]
    assert found.level == "fail"
    assert "as if stepped 3 times a step" in found.seen


def test_a_scheduler_that_no_step_steps_is_told() -> None:
    made = subject()
    made.step = lambda batch: made.optimizer_list[0].step()
    assert findings(made)["scheduler's ticks"].level == "warn"


@pytest.mark.parametrize("warmup", [None, 8], ids=["falling", "rising"])
def test_a_scheduler_that_epochs_step_is_not_rehearsed_by_steps(warmup: int | None) -> None:
    course = (1.0, 0.0) if warmup is None else (0.1, 1.0)
    made = subject(lambda optimizer: lr_scheduler.LinearLR(optimizer, *course, total_iters=2), warmup_steps=warmup)
    made.step = lambda batch: made.optimizer_list[0].step()
    found = findings(made)
    assert "fail" not in {finding.level for finding in found.values()}, found
    assert found["learning rates"].level == "not checked"
    assert "epoch" in found["learning rates"].expected


def test_an_lr_that_stays_at_its_peak_after_a_warmup_passes() -> None:
    warmup = lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4)  # noqa: E731
    found = findings(subject(warmup, warmup_steps=4))["schedule"]
    assert (found.level, found.seen) == ("pass", "the LR stays at its peak from step 4 on")


def test_examples_a_step_are_compared_over_all_devices() -> None:
    made = subject(batch_size=ROWS // 2)
    assert "x2" in findings(made)["batch size"].look_at


def test_decay_is_compared_group_by_group() -> None:
    assert findings(subject(weight_decay={"group0": 0.01}))["weight decay"].level == "pass"
    assert findings(subject(weight_decay={"group0": 0.1}))["weight decay"].level == "fail"
    assert "no group named vectors" in findings(subject(weight_decay={"vectors": 0.0}))["weight decay"].seen


def test_the_first_step_at_which_a_plateau_can_act_is_told_and_a_run_that_ends_before_it() -> None:
    plateau = lambda optimizer: lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)  # noqa: E731
    found = findings(subject(plateau, evals=4))["plateau"]
    assert (found.level, "step 70, at the earliest" in found.seen) == ("warn", True)
    assert findings(subject(plateau, evals=8))["plateau"].level == "pass"
    assert findings(subject(patience=5, evals=4))["plateau"].level == "warn"


def test_without_an_optimizer_rates_are_not_checked() -> None:
    made = subject()
    made.optimizer = made.schedule = None
    assert findings(made)["learning rates"].level == "not checked"


def test_a_schedule_without_the_length_of_the_run_is_not_checked() -> None:
    found = findings(subject(lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), total_steps=None))
    assert found["learning rates"].level == "not checked"
    assert "fail" not in {finding.level for finding in found.values()}
