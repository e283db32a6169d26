"""A state that a model keeps between calls does not reach the checks, and is left as it was."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import TrainingSetup, preflight
from harness.preflight.object_state import preserved_model_state

CHECKS = ["loss_form", "alignment", "independence", "attention", "gradients", "reload"]


class Recurrent(nn.Module):
    """A recurrent model that goes on from the state of its last window, in an attribute, a list or a buffer."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.cells = kind, nn.GRU(16, 16, batch_first=True)
        self.tokens, self.head, self.states = nn.Embedding(20, 16), nn.Linear(16, 20), []
        self.register_buffer("state", None, persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        kept: Any = (self.states[-1] if self.states else None) if self.kind == "list" else self.state
        if kept is not None and kept.shape[1] != len(ids):
            kept = None
        hidden, state = self.cells(self.tokens(ids), kept)
        if self.kind == "list":
            self.states.append(state.detach())
        else:
            self.state = state.detach()
        return self.head(hidden)


def make_setup(kind: str) -> TrainingSetup:
    stream = torch.randint(20, (8, 41), generator=torch.Generator().manual_seed(1))
    batches = [(stream[:, at : at + 10], stream[:, at + 1 : at + 11]) for at in range(0, 40, 10)]
    model = Recurrent(kind)

    def load(folder: Any) -> nn.Module:
        loaded = Recurrent(kind)
        loaded.load_state_dict(torch.load(folder / "model.pt"))
        return loaded

    def save(folder: Any) -> None:
        torch.save(model.state_dict(), folder / "model.pt")

    def compute_loss(model: nn.Module, batch: Any) -> Tensor:
        return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten())

    return TrainingSetup(model, batches, compute_loss, save=save, load=load)


@pytest.mark.parametrize("kind", ["attribute", "list"])
@pytest.mark.parametrize("is_begun", [False, True])
def test_model_with_a_state_between_calls_fails_no_check(kind: str, is_begun: bool) -> None:
    setup = make_setup(kind)
    if is_begun:
        setup.model(setup.batches[0][0])
    before = [*setup.model.states] if kind == "list" else [setup.model.state]
    report = preflight(setup, CHECKS)
    assert not report.failed_checks
    assert any("keeps a state" in finding.observed for _, finding in report)
    after = setup.model.states if kind == "list" else [setup.model.state]
    assert [id(each) for each in after] == [id(each) for each in before]


def test_random_output_in_eval_mode_is_not_taken_for_a_state() -> None:
    setup = make_setup("attribute")
    forward = setup.model.forward
    setup.model.forward = lambda ids: F.dropout(forward(ids), 0.5)  # type: ignore[method-assign]
    report = preflight(setup, ["loss_form"])
    assert report.failed_checks
    assert "dropout" in next(finding.hint for _, finding in report if finding.level == "fail")


def test_preserved_state_restores_buffers_modes_and_requires_grad_after_an_error() -> None:
    setup = make_setup("attribute")
    setup.model.register_buffer("counts", torch.zeros(2), persistent=False)

    def break_off() -> None:
        with setup.preserved_state():
            setup.model.counts += 1
            setup.model.eval().requires_grad_(False)
            raise ValueError("user")

    with pytest.raises(ValueError, match="user"):
        break_off()
    assert not setup.model.counts.any()
    assert setup.model.training
    assert all(each.requires_grad for each in setup.model.parameters())


def test_lazy_layers_keep_the_shape_of_their_first_call() -> None:
    model = nn.Sequential(nn.LazyLinear(3))
    with preserved_model_state(model):
        model(torch.zeros(2, 5))
    assert model(torch.zeros(2, 5)).shape == (2, 3)
