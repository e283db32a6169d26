"""Overrides that reproduce the configuration of a recorded run."""

import json
from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import NON_TRAINING_KEYS, compose_config, without_sweep_keys
from harness.core.events import Diagnosis, Suggestion
from harness.run.reproduce import keep_accepted_suggestions, reproduce_overrides, select_valid_overrides

SMALL = ["experiment=smoke", "model.layers=1", "optimizer.lr=0.002", "seed=5"]


def training_settings(cfg: DictConfig) -> dict[str, Any]:
    settings = OmegaConf.to_container(cfg, resolve=True)
    return {key: value for key, value in settings.items() if key not in NON_TRAINING_KEYS}


def write_record(folder: Path, cfg: DictConfig, overrides: list[str]) -> Path:
    """Write what `reproduce_overrides` reads of a run: its configuration and its recorded overrides."""
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
    (folder / "metrics.jsonl").write_text(json.dumps({"kind": "start", "overrides": overrides}) + "\n")
    return folder


def test_recorded_overrides_are_kept_and_differences_added(tmp_path) -> None:
    cfg = without_sweep_keys(compose_config(SMALL))
    recorded = ["experiment=smoke", "name=one", "optimizer.lr=0.5", "sweep.n_trials=9", "seed=5"]
    found = reproduce_overrides(write_record(tmp_path, cfg, recorded))
    assert found[:3] == ["experiment=smoke", "optimizer.lr=0.5", "seed=5"]
    assert {"optimizer.lr=0.002", "model.layers=1"} <= set(found[3:])
    assert training_settings(without_sweep_keys(compose_config(found))) == training_settings(cfg)


def test_experiment_of_the_run_replaces_overrides_that_do_not_compose(tmp_path) -> None:
    cfg = without_sweep_keys(compose_config(SMALL))
    recorded = ["hydra.searchpath=[file://conf2]", "experiment=of_mine", "seed=5"]
    found = reproduce_overrides(write_record(tmp_path, cfg, recorded))
    assert found[0] == "experiment=smoke"
    assert training_settings(without_sweep_keys(compose_config(found))) == training_settings(cfg)


SPECIAL_CHARACTERS = r"start.source='o\'clock \x, {y}\\'"


@pytest.mark.parametrize("options", [["lora=none", "optimizer=muon"], ["start=warm", SPECIAL_CHARACTERS]])
def test_configuration_is_reproduced_without_recorded_overrides(options, tmp_path) -> None:
    cfg = without_sweep_keys(compose_config(options))
    found = reproduce_overrides(write_record(tmp_path, cfg, []))
    assert training_settings(without_sweep_keys(compose_config(found))) == training_settings(cfg)


LONGER = ("loop.max_steps=9",)  # replaces the epochs of the run
INVALID, ABSENT, NEGATIVE = "loop.epochs=-9", "data.shares=0.2", "loop.grad_clip=-1"


@pytest.mark.parametrize(
    ("overrides", "changes", "valid"),
    [
        (["experiment=headlines"], (INVALID, ABSENT, NEGATIVE, "loop.patience=2"), ("loop.patience=2",)),
        (["experiment=smoke", "loop.max_steps=null", "loop.epochs=1"], LONGER, LONGER),
        (["experiment=smoke", "loop.max_tokens=1e5"], LONGER, LONGER),
        (["experiment=smoke", "schedule.warmup_ratio=0.2"], ("schedule.warmup_steps=2",), ("schedule.warmup_steps=2",)),
        (["schedule=plateau", "schedule.patience=3"], ("schedule=cosine",), ("schedule=cosine",)),
    ],
)
def test_select_valid_overrides(overrides, changes, valid) -> None:
    assert select_valid_overrides(overrides, changes) == valid


def test_keep_accepted_suggestions_drops_what_the_run_refuses(tmp_path) -> None:
    folder = write_record(tmp_path, without_sweep_keys(compose_config(["experiment=operator"])), [])
    noisy = Diagnosis("noisy evaluation", 9, 0.9, "few examples", {}, (Suggestion("data.val_fraction", 0.2),))
    assert [diagnosis.suggestions for diagnosis in keep_accepted_suggestions(folder, [noisy])] == [()]
