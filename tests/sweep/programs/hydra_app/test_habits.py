"""Ways in which people configure sweeps with Optuna in their apps, which work with this sweeper as they stand."""

import os
from pathlib import Path

import pytest
from omegaconf import DictConfig

from harness.core.errors import ConfigError
from tests.sweep.programs.hydra_app.apps import load_app_study, read_results, sweep_here

pytestmark = pytest.mark.slow
THREE = ("hydra.sweeper.n_trials=3", "x=interval(-5,5)")


def parabola(cfg: DictConfig) -> float:
    return (cfg.x - 1) ** 2


@pytest.mark.parametrize("sampler", ["tpe", "random", "cmaes", "gp", "qmc", "nsgaii"])
def test_samplers_are_chosen_by_name(tmp_path, sampler) -> None:
    sweep_here(tmp_path, parabola, "x: 3\n", f"hydra/sweeper/sampler={sampler}", "hydra.sweeper.sampler.seed=1", *THREE)
    assert len({trial.params["x"] for trial in load_app_study(tmp_path / "sweep").trials}) == 3


SEARCH = """
# @package _global_
defaults: [override /hydra/sweeper: optuna, override /hydra/sweeper/sampler: {sampler}]
optimized_metric: val/acc
hydra:
  mode: MULTIRUN
  sweeper:
    _target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper
    storage: null
    study_name: ${{name}}/${{optimized_metric}} sweep
    n_jobs: 1
    n_trials: 3
    direction: [maximize]
    max_failure_rate: 0.0
    sampler: {{_target_: {target}}}
    params: {{x: "interval(-5, 5)", epochs: 2, "net@block": "wide, deep"}}
"""
MAIN = "defaults: [{net@block: wide}, {search: null}, _self_]\nname: mnist\nseed: 7\nx: 3\nepochs: 1\n"


SEEDED = "optuna.samplers.TPESampler, seed: '${seed}', n_startup_trials: 10"


@pytest.mark.parametrize(("sampler", "target"), [("tpe", SEEDED), ("null", "optuna.samplers.RandomSampler")])
def test_a_file_of_a_search_that_names_the_other_sweeper(tmp_path, sampler, target) -> None:
    for name, text in {
        "search/optuna": SEARCH.format(sampler=sampler, target=target),
        "net/wide": "w: 9\n",
        "net/deep": "w: 2\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.yaml").write_text(text)

    def task(cfg: DictConfig) -> float:
        assert (cfg.epochs, cfg.optimized_metric) == (2, "val/acc")
        return cfg.block.w

    sweep_here(tmp_path, task, MAIN, "search=optuna")
    study = load_app_study(tmp_path / "sweep")
    assert study.study_name == "mnist/val/acc sweep"
    assert study.direction.name == "MAXIMIZE"
    values = {"wide": 9, "deep": 2}
    assert [trial.value for trial in study.trials] == [values[trial.params["net@block"]] for trial in study.trials]
    assert len(study.trials) == 3


def test_all_jobs_may_share_one_folder(tmp_path) -> None:
    def task(cfg: DictConfig) -> float:
        with Path("seen.txt").open("a") as file:
            print(cfg.x, file=file)
        return cfg.x

    options = ("hydra.sweep.subdir=./", "hydra.job.chdir=true", "hydra.output_subdir=null")
    sweep_here(tmp_path, task, "x: 3\n", *options, *THREE)
    assert len((tmp_path / "sweep/seen.txt").read_text().splitlines()) == 3
    assert len(list((tmp_path / "sweep").glob("[0-9]/trial_record.jsonl"))) == 3


def test_settings_of_hydra_on_the_command_line_hold_for_the_jobs(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("NOTES", raising=False)

    def task(cfg: DictConfig) -> float:
        assert os.environ["NOTES"] == "a, b"
        assert cfg.direction == "maximize"
        return cfg.trainer.fast + ("z" not in cfg)

    config = "x: 3\nz: 1\ntrainer: {}\ndirection: ${hydra:sweeper.direction}\n"
    overrides = ("+hydra.job.env_set.NOTES='a, b'", "++trainer.fast=true", "~z", "hydra.sweeper.direction=maximize")
    sweep_here(tmp_path, task, config, *overrides, *THREE)
    assert load_app_study(tmp_path / "sweep").best_value == 2


def test_a_pruner_may_be_a_component(tmp_path) -> None:
    pruner = "hydra.sweeper.pruner={_target_:optuna.pruners.MedianPruner,n_startup_trials:5}"
    sweep_here(tmp_path, parabola, "x: 3\n", pruner, *THREE)
    assert len(load_app_study(tmp_path / "sweep").trials) == 3


def test_options_of_ours_keep_their_meaning(tmp_path) -> None:
    def task(cfg: DictConfig) -> float:
        if cfg.x == 2:
            raise ValueError("two")
        return parabola(cfg)

    options = (
        "hydra.sweeper.enqueue=[{x: 2.0}, {x: 1.5}]",
        "hydra.sweeper.baseline=false",
        "hydra.sweeper.max_failures=5",
    )
    sweep_here(tmp_path, task, "x: 3\n", *options, *THREE)
    study = load_app_study(tmp_path / "sweep")
    assert [trial.params["x"] for trial in study.trials[:2]] == [2.0, 1.5]
    assert read_results(study)[0] == ("failed", "ValueError: two")


def test_a_direction_that_is_missing_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"^hydra\.sweeper\.direction: None: must be minimize or maximize$"):
        sweep_here(tmp_path, parabola, "x: 3\n", "hydra.sweeper.direction=null", *THREE)


def test_a_sampler_that_optuna_removed_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"^hydra/sweeper/sampler=motpe: .*; use hydra/sweeper/sampler=tpe$"):
        sweep_here(tmp_path, parabola, "x: 3\n", "hydra/sweeper/sampler=motpe", *THREE)
