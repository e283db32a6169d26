"""Losses that are negative by mistake, and others by design."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import TrainingSetup, preflight
from tests.preflight.healthy_trainings import Training

Loss = Callable[[nn.Module, Any], Tensor]


def get_failed(loss_fn: Loss, targets: Callable[[Tensor], Tensor], outputs: int = 5, last: Any = None) -> list[str]:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, outputs), *([last] if last else [])]
    inputs = torch.randn(16, 6)
    setup = TrainingSetup(nn.Sequential(*layers), [(inputs, targets(inputs))], loss_fn)
    return [finding.title for _, finding in preflight(setup, ["loss_form"]) if finding.level == "fail"]


def make_classes(x: Tensor) -> Tensor:
    return torch.arange(len(x)) % 5


def make_signs(x: Tensor) -> Tensor:
    return (torch.arange(len(x)) % 3 == 0).float()[:, None]


def make_values(x: Tensor) -> Tensor:
    return x[:, :2] * 3


def siamese_loss(model: nn.Module, batch: Any) -> Tensor:
    """Pull pairs with label 1 together, and push the others apart."""
    distance, is_same = model(batch[0]).square(), batch[1]
    return (is_same * distance + (1 - is_same) * F.relu(1 - distance)).mean()


def policy_loss(model: nn.Module, batch: Any) -> Tensor:
    advantages = torch.linspace(-1, 2, len(batch[1]))
    chosen = model(batch[0]).log_softmax(-1).gather(-1, batch[1][:, None])[:, 0]
    return -(advantages * chosen).mean() - 1


def gaussian_loss(model: nn.Module, batch: Any) -> Tensor:
    """Negative log-likelihood with a small variance, which is below 0 near the targets."""
    return F.gaussian_nll_loss(model(batch[0]) * 0.01 + batch[1], batch[1], torch.full_like(batch[1], 1e-3))


HEALTHY: dict[str, tuple[Any, ...]] = {
    "label 1 for the same": (siamese_loss, make_signs, 1),
    "log_softmax in the model": (lambda m, b: F.nll_loss(m(b[0]), b[1]), make_classes, 5, nn.LogSoftmax(-1)),
    "advantages of both signs": (policy_loss, make_classes),
    "density above 1": (gaussian_loss, make_values, 2),
    "one minus a probability": (
        lambda m, b: 1 - m(b[0]).gather(-1, b[1][:, None]).mean(),
        make_classes,
        5,
        nn.Softmax(-1),
    ),
}
FAULTY: dict[str, tuple[Any, ...]] = {
    "sign of a cross-entropy": (lambda m, b: -F.cross_entropy(m(b[0]), b[1]), make_classes),
    "sign of a binary one": (lambda m, b: -F.binary_cross_entropy_with_logits(m(b[0]), b[1]), make_signs, 1),
    "sign of a squared error": (lambda m, b: -F.mse_loss(m(b[0]), b[1]), make_values, 2),
    "nll_loss of logits": (lambda m, b: F.nll_loss(m(b[0]), b[1]), make_classes),
    "nll_loss of probabilities": (lambda m, b: F.nll_loss(m(b[0]), b[1]), make_classes, 5, nn.Softmax(-1)),
    "softmax in nll_loss": (lambda m, b: F.nll_loss(m(b[0]).softmax(-1), b[1]), make_classes),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_losses_below_zero_by_design_pass(name: str) -> None:
    assert not get_failed(*HEALTHY[name])


@pytest.mark.parametrize("name", FAULTY)
def test_wrong_sign_and_missing_logarithm_fail(name: str) -> None:
    assert get_failed(*FAULTY[name]) == ["sign of the loss" if name.startswith("sign") else "logarithm"]


def test_wrong_sign_and_missing_logarithm_fail_for_text() -> None:
    def compute_loss(model: nn.Module, batch: Any, sign: float, is_log: bool) -> Tensor:
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1].flatten(0, 1)
        scores = logits.log_softmax(-1) if is_log else logits
        return sign * F.nll_loss(scores, batch["labels"][:, 1:].flatten())

    for sign, is_log, title in ((-1.0, True, "sign of the loss"), (1.0, False, "logarithm")):
        setup = TrainingSetup(
            Training().model,
            Training().make_batches(),
            lambda model, batch, sign=sign, is_log=is_log: compute_loss(model, batch, sign, is_log),
        )
        titles = [finding.title for _, finding in preflight(setup, ["loss_form"]) if finding.level == "fail"]
        assert titles[:1] == [title]
