import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from harness.preflight import Finding
from harness.preflight.reload import check
from harness.training.lora import add_adapters, remove_adapters
from tests.preflight.healthy_trainings import Training, make_model


def check_reload(training: Training) -> dict[str, Finding]:
    setup = training.make_setup()
    with setup.preserved_state():
        return {finding.title: finding for finding in check(setup)}


def make_training_that_loads(change: Callable[[nn.Module], Any]) -> Training:
    """Return a training whose loaded model is changed."""
    training = Training()
    load = training.load

    def load_and_change(folder: Path) -> nn.Module:
        model = load(folder)
        change(model)
        return model

    training.load = load_and_change
    return training


def test_unchanged_model_passes() -> None:
    assert {finding.level for finding in check_reload(Training()).values()} == {"pass"}


def test_newly_initialized_model_with_the_same_seed_fails() -> None:
    training = Training()
    training.model.load_state_dict(make_model().state_dict())
    training.load = lambda folder: make_model()
    assert check_reload(training)["tensors after loading"].level == "fail"


def test_changed_tensor_fails_with_its_name_and_difference() -> None:
    training = make_training_that_loads(lambda model: model.blocks[0].mlp_norm.bias.data.add_(0.25))
    finding = check_reload(training)["tensors after loading"]
    assert finding.level == "fail"
    assert "blocks.0.mlp_norm.bias differs by up to 0.25" in finding.observed


def test_lost_tie_fails_although_the_loss_is_the_same() -> None:
    def untie(model: nn.Module) -> None:
        model.head.weight = nn.Parameter(model.head.weight.clone())

    findings = check_reload(make_training_that_loads(untie))
    assert findings["tied weights"].level == "fail"
    assert "head.weight = token_embedding.weight" in findings["tied weights"].observed
    assert findings["loss after loading"].level == "pass"


def test_unsaved_setting_fails_although_tensors_are_the_same() -> None:
    findings = check_reload(make_training_that_loads(lambda model: setattr(model.norm, "eps", 1.0)))
    assert findings["tensors after loading"].level == "pass"
    assert findings["loss after loading"].level == "fail"


@pytest.mark.parametrize(("scale", "level"), [(1.0, "pass"), (1.05, "fail")])
def test_merged_adapters(scale: float, level: str) -> None:
    training = Training()
    add_adapters(training.model, rank=4, alpha=8, dropout=0.0, target_modules="all_linear")

    def scale_and_merge(model: nn.Module) -> nn.Module:
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data *= scale
        return remove_adapters(model, merged=True)

    training.overrides = {"load": None, "merge_adapters": scale_and_merge}
    before = copy.deepcopy(training.model.state_dict())
    findings = check_reload(training)
    assert findings["merged adapters"].level == level, findings
    assert findings["save and load"].level == "skip"
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.model.state_dict().items())
