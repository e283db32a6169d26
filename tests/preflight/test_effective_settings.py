import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from harness.preflight import Finding, TrainingSetup
from harness.preflight.effective_settings import check
from tests.preflight.healthy_trainings import BATCH_SIZE, PEAK_LR, STEPS, Training

MakeScheduler = Callable[[torch.optim.Optimizer], Any]


def make_setup(make_scheduler: MakeScheduler | None = None, **requested: Any) -> TrainingSetup:
    """Return a healthy setup, with another scheduler and no requested schedule if `make_scheduler` is given."""
    training = Training()
    if make_scheduler is not None:
        training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=PEAK_LR, weight_decay=0.01)
        training.scheduler = make_scheduler(training.optimizer)
        requested = {"lr_multiplier": None, "warmup_steps": None} | requested
    setup = training.make_setup()
    setup.requested = replace(setup.requested, **requested)
    return setup


def check_settings(setup: TrainingSetup) -> dict[str, Finding]:
    with setup.preserved_state():
        return {finding.title: finding for finding in check(setup)}


def get_failed(findings: dict[str, Finding]) -> list[str]:
    return [title for title, finding in findings.items() if finding.level == "fail"]


def test_healthy_training_passes() -> None:
    findings = check_settings(make_setup())
    assert {finding.level for finding in findings.values()} == {"pass"}
    assert "0.00463 at step 3" in findings["peak LR"].observed  # 5e-3 * 37/40: the decay starts during the warm-up
    assert f"{BATCH_SIZE} examples per step" in findings["batch size"].observed


@pytest.mark.parametrize(
    ("requested_lr", "ratio", "hint"), [(PEAK_LR / 4, "x4", "number of devices"), (2 * PEAK_LR, "x0.5", "cap")]
)
def test_wrong_peak_lr_fails_with_its_ratio(requested_lr: float, ratio: str, hint: str) -> None:
    finding = check_settings(make_setup(lr=requested_lr))["peak LR"]
    assert finding.level == "fail"
    assert f"{ratio} of what was requested" in finding.observed
    assert hint in finding.hint


def test_lr_of_0_fails() -> None:
    findings = check_settings(make_setup(lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)))
    assert get_failed(findings) == ["peak LR"]


@pytest.mark.parametrize(("warmup_steps", "level"), [(0.1 * STEPS, "fail"), (0.3, "warn"), (0, None)])
def test_missing_warmup(warmup_steps: float, level: str | None) -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.ConstantLR(optimizer, factor=1.0), warmup_steps=warmup_steps)
    finding = check_settings(setup).get("warm-up")
    assert (finding and finding.level) == level


@pytest.mark.parametrize(("warmup_steps", "level"), [(4, "fail"), (20, "pass")])
def test_warmup_length(warmup_steps: int, level: str) -> None:
    setup = make_setup(
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.05, total_iters=20), warmup_steps=warmup_steps
    )
    finding = check_settings(setup)["warm-up"]
    assert finding.level == level
    assert "from step 20 on" in finding.observed


@pytest.mark.parametrize(("length", "level"), [(STEPS, "pass"), (STEPS // 4, "fail"), (3 * STEPS, "warn")])
def test_cosine_length(length: int, level: str) -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length))
    finding = check_settings(setup)["schedule"]
    assert finding.level == level, finding
    assert level == "pass" or f"at step {min(length, 3 * STEPS)} of {STEPS}" in finding.observed


def test_schedule_that_is_0_for_most_of_the_run_fails() -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=10))
    assert check_settings(setup)["schedule"].level == "fail"


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.5, total_iters=STEPS),
        lambda optimizer: lr_scheduler.StepLR(optimizer, 15),
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.97),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=STEPS),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda step: (step + 1) ** -0.5),
    ],
    ids=["linear", "step", "exponential", "one-cycle", "inverse-sqrt"],
)
def test_healthy_schedules_pass(make_scheduler: MakeScheduler) -> None:
    assert {finding.level for finding in check_settings(make_setup(make_scheduler)).values()} == {"pass"}


def test_schedule_that_is_advanced_too_often_fails_with_the_factor() -> None:
    setup = make_setup(warmup_steps=None, lr_multiplier=lambda step: 1 - step / STEPS)
    setup.lrs_at = lambda step: {"group0": PEAK_LR * max(0.0, 1 - 3 * step / STEPS)}
    finding = check_settings(setup)["schedule"]
    assert finding.level == "fail"
    assert "as if advanced 3 times per step" in finding.observed


def test_scheduler_for_the_steps_of_the_run_that_is_not_advanced_fails() -> None:
    setup = make_setup()
    setup.train_step = lambda batch: setup.optimizer_list[0].step()
    assert check_settings(setup)["scheduler steps"].level == "fail"


@pytest.mark.parametrize("warmup_steps", [None, 8], ids=["decay", "warm-up"])
def test_scheduler_that_is_advanced_per_epoch_warns(warmup_steps: int | None) -> None:
    factors = (1.0, 0.0) if warmup_steps is None else (0.1, 1.0)
    setup = make_setup(
        lambda optimizer: lr_scheduler.LinearLR(optimizer, *factors, total_iters=2), warmup_steps=warmup_steps
    )
    setup.train_step = lambda batch: setup.optimizer_list[0].step()
    findings = check_settings(setup)
    assert not get_failed(findings)
    assert findings["scheduler steps"].level == "warn"
    assert "epoch" in findings["scheduler steps"].hint


def test_constant_lr_after_warmup_passes() -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=4), warmup_steps=4)
    finding = check_settings(setup)["schedule"]
    assert (finding.level, finding.observed) == ("pass", "LR at its peak from step 4 on")


def test_wrong_batch_size_fails_with_its_ratio() -> None:
    finding = check_settings(make_setup(batch_size=BATCH_SIZE // 2))["batch size"]
    assert finding.level == "fail"
    assert "x2" in finding.hint


def test_weight_decay_is_compared_by_group() -> None:
    assert check_settings(make_setup(weight_decay={"group0": 0.01}))["weight decay"].level == "pass"
    assert check_settings(make_setup(weight_decay={"group0": 0.1}))["weight decay"].level == "fail"
    finding = check_settings(make_setup(weight_decay={"vectors": 0.0}))["weight decay"]
    assert "no group named vectors" in finding.observed


def test_plateau_schedule_that_cannot_act_within_the_run_warns() -> None:
    def make_scheduler(optimizer: torch.optim.Optimizer) -> lr_scheduler.ReduceLROnPlateau:
        return lr_scheduler.ReduceLROnPlateau(optimizer, patience=5)

    finding = check_settings(make_setup(make_scheduler, evals=4))["plateau"]
    assert finding.level == "warn"
    assert "at step 70" in finding.observed
    assert check_settings(make_setup(make_scheduler, evals=8))["plateau"].level == "pass"
    assert check_settings(make_setup(patience=5, evals=4))["plateau"].level == "warn"


def test_learning_rates_are_skipped_without_optimizer() -> None:
    setup = make_setup()
    setup.optimizer = setup.scheduler = None
    assert check_settings(setup)["learning rates"].level == "skip"


def test_learning_rates_are_skipped_without_total_steps() -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.LinearLR(optimizer, 0.1, total_iters=5), total_steps=None)
    findings = check_settings(setup)
    assert findings["learning rates"].level == "skip"
    assert not get_failed(findings)


def test_scheduler_of_an_optimizer_that_does_not_train_fails() -> None:
    training = Training()
    early = torch.optim.AdamW(training.model.parameters(), lr=PEAK_LR)
    training.scheduler = lr_scheduler.LambdaLR(early, Training.lr_multiplier)
    finding = next(iter(check(training.make_setup())))
    assert finding.level == "fail"
    assert "another AdamW" in finding.observed
    assert early.param_groups[0]["lr"] == pytest.approx(PEAK_LR / 4), "it must be left as it was"


def without_scheduler_step(setup: TrainingSetup) -> TrainingSetup:
    """Return the setup with steps that do not advance the scheduler."""
    setup.train_step = lambda batch: setup.optimizer_list[0].step()
    return setup


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: lr_scheduler.ExponentialLR(optimizer, 0.7),  # at 1e-6 of its start as the run ends
        lambda optimizer: lr_scheduler.StepLR(optimizer, 6),
        lambda optimizer: lr_scheduler.MultiStepLR(optimizer, [STEPS // 2, STEPS - 2]),
        lambda optimizer: lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 / (1 + 0.1 * epoch)),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 10),
    ],
    ids=["exponential", "step", "multi-step", "inverse", "cosine"],
)
def test_scheduler_that_may_count_epochs_warns_if_no_step_advances_it(make_scheduler: MakeScheduler) -> None:
    assert check_settings(without_scheduler_step(make_setup(make_scheduler)))["scheduler steps"].level == "warn"


@pytest.mark.parametrize(
    "make_scheduler",
    [
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS, eta_min=PEAK_LR / 10),
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=STEPS),
        lambda optimizer: lr_scheduler.OneCycleLR(optimizer, PEAK_LR, total_steps=STEPS),
    ],
    ids=["cosine to a tenth", "linear", "one-cycle"],
)
def test_schedule_that_ends_with_the_run_fails_if_no_step_advances_it(make_scheduler: MakeScheduler) -> None:
    finding = check_settings(without_scheduler_step(make_setup(make_scheduler)))["scheduler steps"]
    assert finding.level == "fail"
    assert "as the run" in finding.observed


def test_lr_that_the_step_sets_is_not_taken_as_constant() -> None:
    setup, taken = make_setup(), []
    setup.scheduler = None

    def step(batch: Any) -> None:
        taken.append(batch)
        for group in setup.optimizer_list[0].param_groups:
            group["lr"] = PEAK_LR * min(1.0, len(taken) / 10)
        setup.optimizer_list[0].step()

    setup.train_step = step
    findings = check_settings(setup)
    assert findings["learning rates"].level == "skip"
    assert "the step sets the LR itself, from 0.00125 to 0.001" in findings["learning rates"].observed
    assert findings.keys().isdisjoint({"warm-up", "schedule", "peak LR"})


def make_accumulating_setup(scheduler_steps_in: str, calls: int) -> TrainingSetup:
    """Return a setup that makes an update in each of so many calls, whose scheduler steps in calls or in updates."""
    training = Training()
    count = 2  # the first update comes early: earlier checks have called the step

    def step(batch: Any) -> None:
        nonlocal count
        (training.compute_loss(batch) / calls).backward()
        count += 1
        is_update = count % calls == 0
        if is_update:
            training.optimizer.step()
            training.optimizer.zero_grad()
        if is_update or scheduler_steps_in == "calls":
            training.scheduler.step()

    training.overrides["train_step"] = step
    return training.make_setup()


@pytest.mark.parametrize(("steps_in", "level", "ratio"), [("updates", "pass", "1 per"), ("calls", "fail", "4 per")])
def test_scheduler_steps_are_counted_per_update(steps_in: str, level: str, ratio: str) -> None:
    finding = check_settings(make_accumulating_setup(steps_in, 4))["scheduler steps"]
    assert finding.level == level
    assert finding.observed.startswith(ratio)


def test_step_that_makes_no_update_is_told_as_such() -> None:
    findings = check_settings(make_accumulating_setup("updates", 1000))
    assert "made no update in 32 calls" in findings["learning rates"].observed
    assert "scheduler steps" not in findings
    assert not get_failed(findings)


def test_schedulers_of_one_optimizer_that_take_turns_are_skipped() -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS))
    optimizer = setup.optimizer_list[0]
    cosine, swa = setup.scheduler, torch.optim.swa_utils.SWALR(optimizer, swa_lr=PEAK_LR / 10)
    setup.scheduler = [cosine, swa]

    def step(batch: Any) -> None:
        optimizer.step()
        cosine.step()

    setup.train_step = step
    findings = check_settings(setup)
    assert {findings["learning rates"].level, findings["scheduler steps"].level} == {"skip", "pass"}
    assert "not SWALR" in findings["learning rates"].observed


def test_schedule_of_every_second_step_says_where_the_run_ends() -> None:
    setup, taken = make_setup(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, STEPS)), []

    def step(batch: Any) -> None:
        taken.append(batch)
        setup.optimizer_list[0].step()
        if len(taken) % 2:
            setup.scheduler.step()

    setup.train_step = step
    finding = check_settings(setup)["scheduler steps"]
    assert finding.level == "warn"
    assert f"0.5 per training step, so the run of {STEPS} steps ends at step 20 of the schedule" in finding.observed


@pytest.mark.parametrize(("scale", "level"), [(1, "pass"), (8, "fail")])
def test_one_requested_lr_is_the_peak_of_some_group(scale: float, level: str) -> None:
    training = Training()
    *body, head = training.model.parameters()
    groups = [{"params": body, "lr": scale * 1e-4}, {"params": [head], "lr": scale * 1e-3}]
    setup = make_setup(lambda optimizer: lr_scheduler.ConstantLR(optimizer, 1.0), lr=1e-4)
    setup.optimizer, setup.scheduler, setup.train_step = torch.optim.SGD(groups), None, None
    finding = check_settings(setup)["peak LR"]
    assert finding.level == level
    assert "1 other groups" in finding.observed


@pytest.mark.parametrize(
    ("multiplier", "level"),
    [
        (lambda step: (step % 20 + 1) / 3 if step % 20 < 3 else math.cos(math.pi * (step % 20 - 3) / 40), "pass"),
        (lambda step: 0.5 ** (step // 20) * min(1, (step % 20 + 1) / 3) * (1 - step % 20 / 20), "pass"),
        (lambda step: abs(step / 10 % 2 - 1), "pass"),
        (lambda step: 0.5 + 0.5 * math.cos(math.pi * step / 10), "fail"),
        (lambda step: 0.5 + 0.5 * math.cos(math.pi * step / (0.75 * STEPS)), "fail"),
    ],
    ids=["restarts with warm-up", "lower and lower", "triangular", "cosine of an epoch", "short cosine"],
)
def test_restarts_differ_from_a_cosine_beyond_its_length(multiplier: Callable[[int], float], level: str) -> None:
    finding = check_settings(make_setup(lambda optimizer: lr_scheduler.LambdaLR(optimizer, multiplier)))["schedule"]
    assert finding.level == level
    assert level == "pass" or "climbs again" in finding.observed


@pytest.mark.parametrize("length", [STEPS, 60])
def test_length_of_a_resumed_schedule_is_that_of_the_run(length: int) -> None:
    setup = make_setup(lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, length), completed_steps=30)
    for _ in range(30):
        setup.optimizer_list[0].step()
        setup.scheduler.step()
    finding = check_settings(setup)["schedule"]
    assert finding.level == ("pass" if length == STEPS else "warn"), finding
