from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness.preflight import CHECKS, Finding, RequestedSettings, TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training
from tests.preflight.other_trainings import make_masked_setup, make_operator_setup, relative_field_loss


def check_overfit(setup: TrainingSetup) -> Finding:
    [(_, finding)] = preflight(setup, ["overfit"])
    return finding


def test_lr_that_is_too_low_warns_with_one_that_works() -> None:
    finding = check_overfit(replace(Training().make_setup(), requested=RequestedSettings(lr=1e-6)))
    assert finding.level == "warn"
    assert "AdamW at LR 1e-06" in finding.observed
    assert "plain AdamW at LR 0.001 succeeds" in finding.hint


def test_each_group_trains_at_its_requested_lr() -> None:
    training = Training()
    first, *rest = training.model.parameters()
    training.optimizer = torch.optim.AdamW(
        [{"params": rest, "name": "rest", "lr": 0.0}, {"params": [first], "name": "first", "lr": 0.0}]
    )
    requested = RequestedSettings(lr={"rest": 1e-2, "first": 2e-2})
    finding = check_overfit(replace(training.make_setup(), requested=requested))
    assert finding.level == "pass"
    assert "LR 0.01, 0.02" in finding.observed


def test_adamw_is_tried_without_optimizer() -> None:
    assert check_overfit(replace(make_masked_setup(), optimizer=None)).level == "pass"


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_initial_loss_that_is_not_positive_is_skipped(loss: float) -> None:
    setup = make_operator_setup()
    finding = check_overfit(
        replace(setup, loss_fn=lambda model, batch: (relative_field_loss(model, batch) * 0).tanh() + loss)
    )
    assert finding.level == "skip"
    assert f"starts at {loss:.3g}" in finding.observed


def test_constant_inputs_fail_only_here() -> None:
    def constant_input_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return relative_field_loss(model, (x / x, y))

    setup = replace(make_operator_setup(), loss_fn=constant_input_loss)
    assert preflight(setup, CHECKS).failed_checks == ["overfit"]


def test_low_lr_that_learns_passes() -> None:
    """A fine-tuning LR does not overfit in 40 steps, and need not."""
    finding = check_overfit(replace(Training().make_setup(), requested=RequestedSettings(lr=2e-5)))
    assert finding.level == "pass"
    assert "AdamW at LR 2e-05" in finding.observed


def test_lr_that_the_step_sets_is_used() -> None:
    training = Training()
    training.optimizer = torch.optim.AdamW(training.model.parameters(), lr=0.0)

    def step(batch: Any) -> None:
        training.optimizer.param_groups[0]["lr"] = 5e-3
        training.compute_loss(batch).backward()
        training.optimizer.step()

    training.overrides = {"train_step": step, "scheduler": None, "requested": RequestedSettings()}
    finding = check_overfit(training.make_setup())
    assert finding.observed.startswith("AdamW at LR 0.005")


class RoundedLinear(nn.Linear):
    """A layer of quantization-aware training: weights are rounded, with the gradient of those that are not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.weight + (self.weight.round() - self.weight).detach()).mT


def test_loss_that_does_not_follow_its_gradient_warns() -> None:
    torch.manual_seed(0)
    model, x = RoundedLinear(4, 1, bias=False), torch.randn(8, 4)
    nn.init.constant_(model.weight, 0.01)  # 40 steps of 0.01 do not round to 1
    finding = check_overfit(TrainingSetup(model, [x], lambda model, x: (model(x) - 9 * x.sum(1, True)).square().mean()))
    assert finding.level == "warn"
    assert "not the slope of the loss" in finding.observed
