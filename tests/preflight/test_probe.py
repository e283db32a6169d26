from dataclasses import replace
from typing import Any

import torch
from torch import nn

from harness.preflight.probe import MAX_EXAMPLES, has_reduced_precision, subsample_batch
from tests.preflight.healthy_trainings import Training
from tests.preflight.other_trainings import make_operator_setup


def test_batch_with_parts_of_different_lengths_is_not_cut() -> None:
    batch = {"x": torch.zeros(16, 4), "y": torch.zeros(16, 1), "grid": torch.zeros(64, 2)}
    cut = subsample_batch(make_operator_setup(), batch, 64)
    assert {name: len(part) for name, part in cut.items()} == {"x": 16, "y": 16, "grid": 64}


def test_nested_batch_is_cut_and_parts_without_examples_are_kept() -> None:
    targets = (torch.zeros(16), [torch.zeros(16, 2)])
    batch = {"x": torch.zeros(16, 4), "y": targets, "scale": torch.ones(()), "name": "a"}
    cut = subsample_batch(replace(make_operator_setup(), batches=[batch]), batch, 64)
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
