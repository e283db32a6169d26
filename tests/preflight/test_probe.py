from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from harness.preflight.probe import MAX_EXAMPLES, has_reduced_precision, subsample_batch
from tests.preflight.healthy_trainings import Training
from tests.preflight.other_trainings import make_operator_setup, relative_field_loss


def test_batch_with_parts_of_different_lengths_is_not_cut() -> None:
    batch = {"x": torch.zeros(16, 4), "y": torch.zeros(16, 1), "grid": torch.zeros(64, 2)}
    cut = subsample_batch(make_operator_setup(), batch, 64)
    assert {name: len(part) for name, part in cut.items()} == {"x": 16, "y": 16, "grid": 64}


def test_nested_batch_is_cut_and_parts_without_examples_are_kept() -> None:
    targets = (torch.zeros(16), [torch.zeros(16, 2)])
    batch = {"x": torch.zeros(16, 4), "y": targets, "scale": torch.ones(()), "name": "a"}
    setup = replace(make_operator_setup(), batches=[batch], loss_fn=lambda model, batch: batch["scale"])
    setup.model.large = nn.Linear(4000, 4000)  # a step on all examples is expensive
    cut = subsample_batch(setup, batch, 64)
    assert len(cut["x"]) == len(cut["y"][0]) == len(cut["y"][1][0]) == MAX_EXAMPLES
    assert (cut["scale"].item(), cut["name"]) == (1.0, "a")


def test_has_reduced_precision_under_autocast() -> None:
    training = Training()
    assert not has_reduced_precision(training.make_setup())
    plain_loss = training.loss_fn

    def bfloat16_loss(model: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return plain_loss(model, batch)

    training.loss_fn = bfloat16_loss
    assert has_reduced_precision(training.make_setup())


def test_batch_is_used_as_it_is_if_that_is_cheap() -> None:
    setup = make_operator_setup()
    assert subsample_batch(setup, setup.batches[0], 64) is setup.batches[0]


@pytest.mark.parametrize("loss", ["raises", "is nan"])
def test_batch_whose_first_examples_do_not_do_is_used_as_it_is(loss: str) -> None:
    """The first 10 rows are the context of the others, as in meta-learning."""

    def loss_of_queries(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        x, y = batch
        if loss == "raises" and len(x) < 10:
            raise RuntimeError("no query")
        return relative_field_loss(model, (x[10:], y[10:]))

    setup = replace(make_operator_setup(), loss_fn=loss_of_queries)
    setup.model.large = nn.Linear(4000, 4000)
    assert subsample_batch(setup, setup.batches[0], 64) is setup.batches[0]


def test_batch_that_has_no_finite_loss_at_all_is_cut() -> None:
    setup = replace(make_operator_setup(), loss_fn=lambda model, batch: torch.tensor(torch.nan))
    setup.model.large = nn.Linear(4000, 4000)
    assert len(subsample_batch(setup, setup.batches[0], 64)[0]) == MAX_EXAMPLES
