"""What can be learnt by heart."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from harness.preflight import CHECKS, Finding, RequestedSettings, TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training
from tests.preflight.other_trainings import make_masked_setup, make_operator_setup, relative_field_loss


def finding(subject: TrainingSetup) -> Finding:
    [(_, found)] = preflight(subject, ["overfit"])
    return found


def test_a_learning_rate_that_learns_nothing_is_told_with_one_that_does() -> None:
    training = Training()
    found = finding(replace(training.make_setup(), asked=RequestedSettings(lr=1e-6)))
    assert found.level == "warn"
    assert "AdamW at LR 1e-06" in found.seen
    assert "plain AdamW at LR 0.001 learns it" in found.look_at


def test_a_group_learns_at_the_rate_that_is_asked_for_it() -> None:
    training = Training()
    first, *rest = training.model.parameters()
    training.optimizer = torch.optim.AdamW(
        [{"params": rest, "name": "rest", "lr": 0.0}, {"params": [first], "name": "first", "lr": 0.0}]
    )
    found = finding(replace(training.make_setup(), asked=RequestedSettings(lr={"rest": 1e-2, "first": 2e-2})))
    assert found.level == "pass"
    assert "LR 0.01, 0.02" in found.seen


def test_without_an_optimizer_adamw_is_tried() -> None:
    assert finding(replace(make_masked_setup(), optimizer=None)).level == "pass"


@pytest.mark.parametrize("loss", [0.0, -1.0])
def test_a_loss_that_begins_at_0_or_below_is_not_checked(loss: float) -> None:
    subject = make_operator_setup()
    found = finding(
        replace(subject, loss_fn=lambda model, batch: (relative_field_loss(model, batch) * 0).tanh() + loss)
    )
    assert (found.level, f"begins at {loss:.3g}" in found.expected) == ("not checked", True)


def test_inputs_that_tell_no_example_from_another_are_found_by_this_alone() -> None:
    """As of a feature that is divided by itself."""
    subject = make_operator_setup()

    def blind(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        return relative_field_loss(model, (x / x, y))

    assert preflight(replace(subject, loss_fn=blind), CHECKS).failed_checks == ["overfit"]
