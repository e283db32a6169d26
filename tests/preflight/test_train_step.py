from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from harness.preflight import Finding, TrainingSetup, preflight
from tests.preflight.healthy_trainings import STEPS, Training
from tests.preflight.test_faults import use_autocast, use_grad_scaler


def check_step(setup: TrainingSetup) -> dict[str, Finding]:
    return {finding.title: finding for _, finding in preflight(setup, ["train_step"])}


def get_failed(setup: TrainingSetup) -> list[str]:
    return [title for title, finding in check_step(setup).items() if finding.level == "fail"]


def test_frozen_parameters_warn_in_optimizer_and_fail_if_they_move() -> None:
    training = Training()
    frozen = training.model.position_embedding.weight.requires_grad_(False)
    [optimizer] = preflight(training.make_setup(), ["gradients"]).findings["gradients"][:1]
    assert (optimizer.title, optimizer.level) == ("parameters in the optimizer", "warn")
    assert check_step(training.make_setup())["frozen parameters"].level == "pass"
    step = training.step

    def step_and_decay(batch: object) -> None:
        step(batch)
        with torch.no_grad():
            frozen.mul_(0.999)

    training.step = step_and_decay
    assert get_failed(training.make_setup()) == ["frozen parameters"]


def test_unused_module_warns() -> None:
    training = Training()
    training.model.pooler = nn.Linear(4, 4)
    training.set_optimizer(training.model.parameters())
    finding = check_step(training.make_setup())["gradients in 4 steps"]
    assert finding.level == "warn"
    assert "pooler.weight" in finding.observed


def test_gradients_that_are_not_finite_fail() -> None:
    training = Training()
    training.model.norm.weight.register_hook(lambda gradient: gradient / 0)
    assert "gradients in 1 steps" in get_failed(training.make_setup())
    use_grad_scaler(training)
    assert "gradients in 0 steps" in get_failed(training.make_setup())


@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")  # the scaler skips updates
def test_updates_skipped_by_grad_scaler_pass_if_the_scaler_is_given() -> None:
    training = Training()
    scaler = use_grad_scaler(training, init_scale=2.0**30)
    finding = check_step(training.make_setup())["gradients in 4 steps"]
    assert finding.level == "pass", finding
    assert "skipped because of overflow" in finding.observed
    assert scaler.get_scale() == 2.0**30
    training.overrides = {}
    finding = check_step(training.make_setup())["gradient of the step"]
    assert (finding.level, "extra_state" in finding.hint) == ("warn", True)


def test_group_with_lr_0_fails() -> None:
    training = Training()
    first, *rest = training.model.parameters()
    training.set_optimizer([{"params": rest}, {"params": [first], "lr": 0.0}])
    finding = check_step(training.make_setup())["updates in 4 steps"]
    assert finding.level == "fail"
    assert "token_embedding.weight" in finding.observed


def use_step(update: Callable[[Training, Any], Any]) -> Finding:
    """Return the finding about the gradient of a step that `update` makes, without its zero_grad and scheduler."""
    training = Training()

    def step(batch: Any) -> None:
        training.model.train()
        update(training, batch)
        training.scheduler.step()

    training.step = step
    return check_step(training.make_setup())["gradient of the step"]


def halves(batch: Any) -> list[Any]:
    return [{name: value[start::2] for name, value in batch.items()} for start in (0, 1)]


def accumulate(training: Training, batch: Any, scale: float) -> None:
    training.optimizer.zero_grad()
    for part in halves(batch):
        (scale * training.compute_loss(part)).backward()
    nn.utils.clip_grad_norm_(training.model.parameters(), 0.1)
    training.optimizer.step()


def test_sum_over_micro_batches_fails_although_gradients_are_clipped() -> None:
    finding = use_step(lambda training, batch: accumulate(training, batch, 1.0))
    assert finding.level == "fail"
    assert "number of micro-batches, if there are 2" in finding.hint


def test_mean_over_micro_batches_does_not_fail() -> None:
    assert use_step(lambda training, batch: accumulate(training, batch, 0.5)).level != "fail"


def test_gradients_that_are_never_cleared_are_named() -> None:
    def update(training: Training, batch: Any) -> None:
        training.compute_loss(batch).backward()
        training.optimizer.step()

    finding = use_step(update)
    assert (finding.level, "never cleared" in finding.observed) == ("fail", True)


def test_gradients_that_are_cleared_too_early_are_named() -> None:
    def update(training: Training, batch: Any) -> None:
        training.compute_loss(batch).backward()
        training.optimizer.zero_grad()
        training.optimizer.step()

    finding = use_step(update)
    assert (finding.level, "cleared between backward and the update" in finding.observed) == ("fail", True)


def test_noise_between_backward_and_the_update_warns() -> None:
    def update(training: Training, batch: Any) -> None:
        training.optimizer.zero_grad()
        training.compute_loss(batch).backward()
        for weight in training.model.parameters():
            weight.grad += 2 * weight.grad.std() * torch.randn_like(weight.grad)
        training.optimizer.step()

    assert use_step(update).level == "warn"


@pytest.mark.parametrize("is_random", [True, False])
def test_random_augmentation_in_the_step_is_not_compared(is_random: bool) -> None:
    """Another batch in every step is a fault only if it is not drawn: `loss_fn` is that of the batch as it is."""

    def update(training: Training, batch: Any) -> None:
        ids = batch["input_ids"]
        shown = torch.rand(ids.shape) < 0.5 if is_random else torch.arange(ids.shape[1]) % 2 == 0
        training.optimizer.zero_grad()
        training.compute_loss({**batch, "input_ids": torch.where(shown, ids, ids.flip(0))}).backward()
        training.optimizer.step()

    finding = use_step(update)
    assert finding.level == ("skip" if is_random else "fail")
    assert ("random numbers" in finding.observed) == is_random


def test_clipping_before_unscaling_fails_and_after_it_passes() -> None:
    levels = []
    for is_first in (True, False):
        training = Training()
        use_autocast(training, torch.float16)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

        def step(batch: Any, training: Training = training, scaler: Any = scaler, is_first: bool = is_first) -> None:
            training.optimizer.zero_grad()
            scaler.scale(training.compute_loss(batch)).backward()
            if is_first:
                scaler.unscale_(training.optimizer)
            nn.utils.clip_grad_norm_(training.model.parameters(), 0.5)
            scaler.step(training.optimizer)
            scaler.update()
            training.scheduler.step()

        training.step, training.overrides = step, {"extra_state": [scaler]}
        levels.append(check_step(training.make_setup())["gradient of the step"].level)
    assert levels == ["pass", "fail"]


def test_warmup_from_0_moves_all_parameters() -> None:
    training = Training()
    training.lr_multiplier = lambda step: min(step / 10, 1 - step / STEPS)
    training.set_optimizer(training.model.parameters())
    for step in (training.step, None):
        training.overrides = {"train_step": step}
        assert check_step(training.make_setup())["updates in 4 steps"].level == "pass"


def test_frozen_parameters_may_follow_trainable_ones() -> None:
    levels = []
    for follows in (True, False):
        training = Training()
        first, second = (block.mlp.up.weight for block in training.model.blocks)
        second.requires_grad_(False)
        training.set_optimizer([weight for weight in training.model.parameters() if weight.requires_grad])
        step = training.step

        def step_and_write(
            batch: Any, step: Any = step, one: Any = second, other: Any = first, follows: bool = follows
        ) -> None:
            step(batch)
            with torch.no_grad():
                one.lerp_(other, 0.1) if follows else one.mul_(0.99)

        training.step = step_and_write
        levels.append(check_step(training.make_setup())["frozen parameters"].level)
    assert levels == ["pass", "warn"]


def step_halves(training: Training, between: Callable[[], Any]) -> None:
    """Accumulate over two micro-batches, with a call in between that should not be there."""

    def update(batch: Any) -> None:
        training.model.train()
        training.optimizer.zero_grad()
        for part in halves(batch):
            (0.5 * training.compute_loss(part)).backward()
            between()
        training.optimizer.step()
        training.scheduler.step()

    training.step = update


@pytest.mark.parametrize("what", ["clipped", "cleared"])
def test_gradients_that_are_changed_between_micro_batches_are_named(what: str) -> None:
    training = Training()
    weights = list(training.model.parameters())

    def clear_first() -> None:
        if len(calls := [*called, 1]) % 2:
            training.optimizer.zero_grad()
        called.append(len(calls))

    called: list[int] = []
    step_halves(training, clear_first if what == "cleared" else lambda: nn.utils.clip_grad_norm_(weights, 0.01))
    finding = check_step(training.make_setup())["gradient of the step"]
    assert (finding.level, f"{what} between micro-batches" in finding.observed) == ("fail", True), finding


def test_update_with_the_gradient_of_the_previous_batch_is_named() -> None:
    def update(training: Training, batch: Any) -> None:
        training.optimizer.step()
        training.optimizer.zero_grad()
        training.compute_loss(batch).backward()

    finding = use_step(update)
    assert (finding.level, "the previous batch" in finding.observed) == ("fail", True), finding


def test_parameters_that_are_not_cleared_are_named() -> None:
    def update(training: Training, batch: Any) -> None:
        for name, weight in training.model.named_parameters():
            weight.grad = weight.grad if name.endswith("up.weight") else None
        training.compute_loss(batch).backward()
        training.optimizer.step()

    finding = use_step(update)
    assert (finding.level, "blocks.0.mlp.up.weight" in finding.observed) == ("fail", True), finding
    assert "never cleared" in finding.observed


def test_clipping_to_a_tiny_norm_warns() -> None:
    def update(training: Training, batch: Any) -> None:
        training.optimizer.zero_grad()
        training.compute_loss(batch).backward()
        nn.utils.clip_grad_norm_(training.model.parameters(), 1e-6)
        training.optimizer.step()

    finding = use_step(update)
    assert (finding.level, "clipped to" in finding.observed) == ("warn", True), finding


def make_pair(n_calls: int, with_own_loss: bool = False) -> TrainingSetup:
    """Return a training with two optimizers, of which the second one is stepped once in so many calls, or never."""
    training = Training()
    weights, calls = list(training.model.parameters()), [0]
    optimizers = [torch.optim.AdamW(part, lr=1e-3) for part in (weights[:9], weights[9:])]

    def step(batch: Any) -> None:
        training.model.train()
        calls[0] += 1
        training.model.zero_grad()
        training.compute_loss(batch).backward()
        optimizers[0].step()
        if with_own_loss:
            training.model.zero_grad()
            (2 * training.compute_loss(batch)).backward()
        if n_calls and calls[0] % n_calls == 0:
            optimizers[1].step()

    training.step = step
    training.overrides = {"optimizer": optimizers, "scheduler": None, "evaluate": None}
    return training.make_setup()


def test_optimizer_that_is_never_stepped_fails_and_a_rare_one_passes() -> None:
    finding = check_step(make_pair(0))["updates in 20 steps"]
    assert (finding.level, "optimizer 2 of 2 (AdamW) is never stepped" in finding.observed) == ("fail", True), finding
    findings = check_step(make_pair(6))
    assert not [title for title, finding in findings.items() if finding.level == "fail"]


def test_losses_of_several_optimizers_are_not_compared() -> None:
    assert check_step(make_pair(1, with_own_loss=True))["gradient of the step"].level == "skip"


def test_steps_without_an_update_skip() -> None:
    training = Training()
    training.step = lambda batch: training.compute_loss(batch).backward()
    finding = check_step(training.make_setup())["updates in 20 steps"]
    assert (finding.level, "none in 20 calls" in finding.observed) == ("skip", True)


@pytest.mark.parametrize("evaluates", [True, False])
def test_training_in_eval_mode_warns(evaluates: bool) -> None:
    training = Training()
    training.model.norm = nn.Sequential(training.model.norm, nn.Dropout(0.1))
    training.set_optimizer(training.model.parameters())
    training.model.eval()

    def step(batch: Any) -> None:
        training.optimizer.zero_grad()
        training.compute_loss(batch).backward()
        training.optimizer.step()
        training.scheduler.step()

    training.step = step
    training.overrides = {} if evaluates else {"evaluate": None}
    assert check_step(training.make_setup())["training mode"].level == "warn"
