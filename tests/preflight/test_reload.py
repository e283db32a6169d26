"""What a model must still be after it was saved, loaded or merged."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.preflight import Finding
from harness.preflight.probe import has_reduced_precision
from harness.preflight.reload import check
from harness.training.lora import add_adapters, remove_adapters
from tests.preflight.healthy_trainings import Training, make_model


def findings(training: Training) -> dict[str, Finding]:
    made = training.make_setup()
    with made.preserved_state():
        return {finding.what: finding for finding in check(made)}


def loading(training: Training, spoil: Callable[[nn.Module], Any]) -> None:
    load = training.load

    def spoiled(folder: Path) -> nn.Module:
        model = load(folder)
        spoil(model)
        return model

    training.load = spoiled


def test_a_model_that_comes_back_passes() -> None:
    assert {finding.level for finding in findings(Training()).values()} == {"pass"}


def test_a_model_made_anew_from_the_same_seed_is_not_taken_for_loaded() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    training.load = lambda folder: make_model()
    assert findings(training)["tensors after loading"].level == "fail"


def test_tensors_that_differ_are_named_with_how_much() -> None:
    training = Training()
    loading(training, lambda model: model.blocks[0].mlp_norm.bias.data.add_(0.25))
    found = findings(training)["tensors after loading"]
    assert found.level == "fail"
    assert "blocks.0.mlp_norm.bias differs by up to 0.25" in found.seen


def test_tied_weights_that_come_apart_are_named_though_the_loss_is_the_same() -> None:
    training = Training()
    loading(training, lambda model: setattr(model.head, "weight", nn.Parameter(model.head.weight.clone())))
    found = findings(training)
    assert found["tied weights"].level == "fail"
    assert "head.weight = token_embedding.weight" in found["tied weights"].seen
    assert found["loss after loading"].level == "pass"


def test_a_setting_that_is_not_saved_shows_in_the_loss_alone() -> None:
    training = Training()
    loading(training, lambda model: setattr(model.norm, "eps", 1.0))
    found = findings(training)
    assert (found["tensors after loading"].level, found["loss after loading"].level) == ("pass", "fail")


def test_rounding_is_coarser_where_the_loss_is_computed_in_16_bits() -> None:
    training = Training()
    assert not has_reduced_precision(training.make_setup())
    plain = training.loss_fn

    def in_16_bits(model: nn.Module, batch: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return plain(model, batch)

    training.loss_fn = in_16_bits
    assert has_reduced_precision(training.make_setup())


@pytest.mark.parametrize(("scale", "level"), [(1.0, "pass"), (1.05, "fail")])
def test_a_merge_changes_nothing_but_rounding(scale: float, level: str) -> None:
    training = Training()
    add_adapters(training.model, rank=4, alpha=8, dropout=0.0, target_modules="all_linear")

    def merge(model: nn.Module) -> nn.Module:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= scale
        return remove_adapters(model, merged=True)

    training.load, training.more = None, {"merge": merge}
    before = copy.deepcopy(training.model.state_dict())
    found = findings(training)
    assert found["merged adapters"].level == level, found
    assert found["save and load"].level == "not checked"
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
