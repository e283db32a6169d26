"""How batches are cut to what is cheap."""

from dataclasses import replace

import torch

from harness.preflight.probe import EXAMPLES, subsample_batch
from tests.preflight.other_trainings import make_operator_setup


def test_a_batch_is_taken_whole_where_its_parts_are_not_all_as_long() -> None:
    batch = {"x": torch.zeros(16, 4), "y": torch.zeros(16, 1), "grid": torch.zeros(64, 2)}
    cut = subsample_batch(make_operator_setup(), batch, 64)
    assert {name: len(part) for name, part in cut.items()} == {"x": 16, "y": 16, "grid": 64}


def test_examples_are_cut_and_what_holds_none_stays() -> None:
    batch = {
        "x": torch.zeros(16, 4),
        "y": (torch.zeros(16), [torch.zeros(16, 2)]),
        "scale": torch.ones(()),
        "name": "a",
    }
    cut = subsample_batch(replace(make_operator_setup(), batches=[batch]), batch, 64)
    assert len(cut["x"]) == len(cut["y"][0]) == len(cut["y"][1][0]) == EXAMPLES
    assert (cut["scale"].item(), cut["name"]) == (1.0, "a")
