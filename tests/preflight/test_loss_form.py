"""The form of the loss, where the fault lies outside the model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.preflight import TrainingSetup, preflight
from tests.preflight.healthy_trainings import collate, make_documents, make_model

ROWS = make_documents(8, seed=1)


def make_loss(change: Callable[[Tensor], Tensor], counts_all: bool = False, smoothing: float = 0.0) -> Any:
    def loss_fn(model: nn.Module, batch: Any) -> Tensor:
        logits, labels = model(batch["input_ids"], batch["attention_mask"]).logits[:, :-1], batch["labels"][:, 1:]
        loss = F.cross_entropy(change(logits).mT, labels, label_smoothing=smoothing, reduction="sum")
        return loss / (batch["labels"].numel() if counts_all else (labels >= 0).sum())

    return loss_fn


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_healthy_losses_pass(smoothing: float) -> None:
    loss_fn = make_loss(lambda logits: logits, smoothing=smoothing)
    assert not preflight(TrainingSetup(make_model(), [collate(ROWS)], loss_fn), ["loss_form"]).failed_checks


def test_softmax_between_model_and_loss_fails() -> None:
    setup = TrainingSetup(make_model(), [collate(ROWS)], make_loss(lambda logits: logits.softmax(-1)))
    failures = [finding for _, finding in preflight(setup, ["loss_form"]) if finding.level == "fail"]
    assert "softmax before the cross-entropy" in failures[0].observed


def test_counting_the_first_token_is_no_fault_and_counting_padding_is() -> None:
    """A Trainer divides the loss of GPT-2 by all labels, of which the first one in a row is never scored."""
    setup = TrainingSetup(make_model(), [collate([row[:10] for row in ROWS])], make_loss(lambda logits: logits, True))
    assert not preflight(setup, ["loss_form"]).failed_checks
    setup = TrainingSetup(make_model(), [collate(ROWS)], make_loss(lambda logits: logits, True))
    failures = [finding for _, finding in preflight(setup, ["loss_form"]) if finding.level == "fail"]
    assert "padding and hidden labels included" in failures[0].observed


def test_output_in_a_class_of_transformers_is_replaced() -> None:
    from transformers.modeling_outputs import CausalLMOutput

    from harness.preflight.outputs import replace_output

    old, new = torch.zeros(1), torch.ones(1)
    output = CausalLMOutput(logits=old)
    assert replace_output(output, old, new).logits is new
    assert output.logits is old
    assert replace_output(SimpleNamespace(logits=old, loss=None), old, new).logits is new
    assert replace_output(object(), old, new) is None
