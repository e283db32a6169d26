"""Every trusted component exists and is what its place needs; every optimizer trains and resumes."""

import importlib
import importlib.util
import inspect
import io
import re
from collections.abc import Callable

import optuna
import pytest
import torch
import yaml
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from torch import nn

from harness.config.targets import build_component
from harness.config.trust import iter_mappings
from harness.config.trusted_components import (
    COMPONENTS,
    DOTTED_NAME,
    LOGGING_TARGETS,
    OPTIMIZERS,
    PRUNERS,
    SAMPLERS,
    find_place,
    list_hydra_targets,
)
from harness.core.events import Observer
from harness.training.optimizers import CombinedOptimizer, group_parameters
from tests.conftest import ROOT

NOT_INSTALLED = [] if importlib.util.find_spec("ray") else ["hydra_plugins.hydra_ray_launcher"]
BASES = {
    "hydra.callbacks.*": Callback,
    "hydra.launcher": Launcher,
    "hydra.sweeper": Sweeper,
    "hydra.sweeper.sampler": optuna.samplers.BaseSampler,
    "hydra.sweeper.sampler.crossover": optuna.samplers.nsgaii.BaseCrossover,
    "hydra.sweeper.sampler.mutation": optuna.samplers.nsgaii.BaseMutation,
    "model": nn.Module,
    "observers.*": Observer,
    "optimizer": torch.optim.Optimizer,
    "pruner": optuna.pruners.BasePruner,
}


def import_name(name: str) -> Callable[..., object]:
    if name.rpartition(".")[0].startswith(tuple(NOT_INSTALLED) or "\0"):
        pytest.skip(f"{name} is not installed")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize("place", COMPONENTS)
def test_trusted_components_exist_and_are_what_their_place_needs(place: str) -> None:
    Plugins.instance()  # loads the launchers
    for name in COMPONENTS[place]:
        found = import_name(name)
        assert callable(found), name
        if inspect.isclass(found) and place in BASES:
            assert issubclass(found, BASES[place]), name
        if not inspect.isclass(found):
            assert name.startswith(("harness.", "hydra_plugins.hydra_optuna_sweeper._impl.")), name


def test_only_exact_names_are_trusted() -> None:
    for names in COMPONENTS.values():
        assert all(re.fullmatch(DOTTED_NAME, name) for name in names)
        assert len(set(names)) == len(names)
    assert not [name for name in list_hydra_targets() if "*" in name]
    assert not [name for name in LOGGING_TARGETS if "*" in name]


def test_every_yaml_names_components_at_places_where_they_are_trusted() -> None:
    named = 0
    for file in [*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "sweeps").glob("*.yaml")]:
        group = () if file.name == "config.yaml" else (file.parent.name,)
        root = () if file.read_text().startswith("# @package _global_") else group
        for path, node in iter_mappings(yaml.safe_load(file.read_text()) or {}, root):
            if "_target_" in node:
                place = find_place(path)
                assert place, f"{file}: {path}"
                assert node["_target_"] in COMPONENTS[place], file
                named += 1
    assert named > 50


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_trains_and_resumes_from_its_saved_state(name: str) -> None:
    """Train two steps, save and load the state as data, and train a third step in both."""

    def build(weights: dict[str, torch.Tensor]) -> tuple[nn.Module, CombinedOptimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
        model.load_state_dict(weights or model.state_dict())
        if name == "torch.optim.Muon":  # takes two-dimensional matrices only
            model[1].bias.requires_grad_(False)
            model[2].requires_grad_(False)
        node = {"_target_": name, "_partial_": True, "lr": 0.01}
        if name.endswith("build_muon"):
            node |= {"weight_decay": 0.0, "momentum": 0.9, "adamw_lr": 0.01, "adamw_betas": [0.9, 0.99]}
        return model, CombinedOptimizer(build_component(node, ("optimizer",))(group_parameters(model)), model)

    def train_step(model: nn.Module, optimizer: CombinedOptimizer, seed: int) -> float:
        torch.manual_seed(seed)
        optimizer.train()
        loss = model(torch.arange(5)).square().sum()
        loss.backward()
        for part in optimizer.parts:
            part.step()
        optimizer.zero_grad()
        return loss.item()

    model, optimizer = build({})
    losses = [train_step(model, optimizer, step) for step in range(2)]
    assert all(loss == loss for loss in losses)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again, resumed = build({key: tensor.clone() for key, tensor in model.state_dict().items()})
    resumed.load_state_dict(torch.load(file, weights_only=True))
    for both in ((model, optimizer), (again, resumed)):
        train_step(*both, seed=3)
    for ours, theirs in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", [*PRUNERS, *SAMPLERS])
def test_pruners_and_samplers_build(name: str) -> None:
    place = "pruner" if name in PRUNERS else "hydra.sweeper.sampler"
    needs = {
        "PatientPruner": {"wrapped_pruner": {"_target_": "optuna.pruners.MedianPruner"}, "patience": 1},
        "PercentilePruner": {"percentile": 50.0},
        "ThresholdPruner": {"upper": 1.0},
        "GridSampler": {"search_space": {"x": [1]}},
    }
    node = {"_target_": name, **needs.get(name.rpartition(".")[2], {})}
    assert isinstance(build_component(node, tuple(place.split("."))), BASES[place])
