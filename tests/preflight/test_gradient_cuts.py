"""Gradients that differ from the slope of the loss: on purpose, by accident, and because of a hook."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import Finding, TrainingSetup, preflight

TITLE = "gradients and finite differences"
Forward = Callable[[Any, Tensor], Tensor]


class Residual(nn.Module):
    """A classifier with a residual branch; a case says how its forward pass is written."""

    def __init__(self, compute: Forward) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.head = nn.Linear(10, 32), nn.Linear(32, 5)
        self.branch = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.norm = nn.LayerNorm(32)
        self.compute = compute

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


def make_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 10, generator=generator), torch.randint(5, (8,), generator=generator)


def classify(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def check_model(model: nn.Module, loss_fn: Any = classify, optimizer: Any = None) -> dict[str, Finding]:
    setup = TrainingSetup(model, [make_batch()], loss_fn, optimizer=optimizer)
    return {finding.title: finding for _, finding in preflight(setup, ["gradients"])}


def check_forward(compute: Forward) -> Finding:
    return check_model(Residual(compute))[TITLE]


def add_branch(model: Any, x: Tensor) -> Tensor:
    hidden = model.first(x)
    return model.head(hidden + model.branch(model.norm(hidden)))


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return 3 * gradient


def use_straight_through(model: Any, x: Tensor) -> Tensor:
    gates = model.first(x).softmax(-1)
    hard = F.one_hot(gates.argmax(-1), 32).float()
    return model.head((hard - gates).detach() + gates + 0 * model.branch(gates))


def weigh_by_item(model: Any, x: Tensor) -> Tensor:
    hidden = add_branch(model, x)
    return hidden / hidden.norm().item()


def focal_loss(model: nn.Module, batch: Any) -> Tensor:
    nats = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
    with torch.no_grad():
        weights = (1 - (-nats).exp()) ** 2
    return (weights * nats).mean()


@pytest.mark.parametrize(
    ("compute", "loss_fn", "operation"),
    [
        (use_straight_through, classify, "detach()"),
        (weigh_by_item, classify, "item"),
        (add_branch, focal_loss, "no_grad()"),
        (lambda model, x: model.head(StraightThrough.apply(model.first(x))), classify, "StraightThrough"),
    ],
)
def test_gradient_that_is_cut_or_defined_by_hand_warns_with_its_line(
    compute: Forward, loss_fn: Any, operation: str
) -> None:
    finding = check_model(Residual(compute), loss_fn)[TITLE]
    assert finding.level == "warn", finding
    assert f"{operation} in {__file__}:" in finding.observed


def test_choices_are_held_fixed() -> None:
    def route(model: Any, x: Tensor) -> Tensor:
        weights, experts = model.first(x).softmax(-1).topk(2, -1)
        chosen = F.one_hot(experts, 32) * weights[..., None] / weights.sum(-1)[:, None, None]
        return model.head(8 * chosen.sum(1))

    assert check_forward(route).level == "pass"


def test_untrained_rows_of_embeddings_pass() -> None:
    class Bags(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.by_frequency = nn.Embedding(40, 16, scale_grad_by_freq=True)
            self.words, self.head = nn.EmbeddingBag(40, 16, padding_idx=0, mode="sum"), nn.Linear(16, 5)
            nn.init.normal_(self.words.weight)

        def forward(self, x: Tensor) -> Tensor:
            ids = (10 * x).long().clamp(0, 39)
            return self.head(self.by_frequency(ids).mean(1) + self.words(ids))

    assert check_model(Bags())[TITLE].level == "pass"


def test_residual_branch_without_gradient_fails() -> None:
    def detach_branch(model: Any, x: Tensor) -> Tensor:
        hidden = model.first(x)
        return model.head(hidden + model.branch(model.norm(hidden.data)))

    finding = check_forward(detach_branch)
    assert (finding.level, "residual branch: .data in" in finding.observed) == ("fail", True)


def test_frozen_layer_without_gradient_fails() -> None:
    def freeze(model: Any, x: Tensor) -> Tensor:
        hidden = model.first(x)
        with torch.no_grad():
            normed = model.norm(hidden)
        return model.head(hidden + model.branch(normed))

    model = Residual(freeze)
    model.norm.requires_grad_(False)
    finding = check_model(model)[TITLE]
    assert (finding.level, "frozen layers norm" in finding.observed) == ("fail", True)


def test_detach_for_logging_does_not_hide_a_hook() -> None:
    def log_norm(model: Any, x: Tensor) -> Tensor:
        hidden = add_branch(model, x)
        model.logged = hidden.detach().norm().item()
        return hidden

    model = Residual(log_norm)
    assert check_model(model)[TITLE].level == "pass"
    model.first.weight.register_hook(lambda gradient: 0.1 * gradient)
    finding = check_model(model)[TITLE]
    assert (finding.level, "hooks" in finding.hint) == ("fail", True)


def test_writing_through_detach_fails() -> None:
    def clamp(model: Any, x: Tensor) -> Tensor:
        hidden = model.branch[0](model.first(x))
        hidden.detach().mul_(2)
        return model.head(hidden.tanh())

    finding = check_forward(clamp)
    assert (finding.level, "writes to a tensor" in finding.observed) == ("fail", True), finding


def test_trainable_target_network_outside_the_optimizer_warns() -> None:
    model = Residual(add_branch)
    online = list(model.parameters())
    model.target = copy.deepcopy(model)

    def loss_fn(model: Any, batch: Any) -> Tensor:
        with torch.no_grad():
            target = model.target(batch[0])
        return classify(model, batch) + F.mse_loss(model(batch[0]), target + 1)

    findings = check_model(model, loss_fn, torch.optim.AdamW(online))
    assert {finding.level for finding in findings.values()} <= {"pass", "warn"}
    assert "no gradient either" in findings["parameters in the optimizer"].observed
