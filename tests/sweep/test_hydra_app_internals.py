"""The private parts of Hydra and OmegaConf that sweeps of apps depend on."""

import pytest
from hydra._internal.callbacks import Callbacks
from hydra.core.plugins import Plugins
from hydra.experimental.callback import Callback
from hydra.plugins.sweeper import Sweeper
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import UnsupportedInterpolationType

from harness.sweep.hydra_app_internals import (
    always_use_sweeper,
    replace_resolver,
    skip_multirun_callbacks,
)
from tests.sweep.programs.hydra_app.apps import open_multirun

heard: list[str] = []


class RecordingCallback(Callback):
    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        heard.append("multirun start")

    def on_multirun_end(self, config: DictConfig, **kwargs: object) -> None:
        heard.append("multirun end")

    def on_job_start(self, config: DictConfig, **kwargs: object) -> None:
        heard.append("job start")


class OwnSweeper(Sweeper):
    def setup(self, *, hydra_context, task_function, config) -> None:
        self.config = config

    def sweep(self, arguments: list[str]) -> None:
        raise NotImplementedError


def test_a_resolver_that_did_not_exist_is_gone_afterwards() -> None:
    with replace_resolver("own_resolver", lambda: "replaced"):
        assert OmegaConf.create({"key": "${own_resolver:}"}).key == "replaced"
    with pytest.raises(UnsupportedInterpolationType):
        _ = OmegaConf.create({"key": "${own_resolver:}"}).key


def test_a_worker_calls_the_callbacks_of_jobs_only(tmp_path, monkeypatch) -> None:
    heard.clear()
    for name in ("on_multirun_start", "on_multirun_end"):
        monkeypatch.setattr(Callbacks, name, getattr(Callbacks, name))  # puts them back afterwards
    config = f"hydra: {{callbacks: {{mine: {{_target_: {__name__}.RecordingCallback}}}}}}\n"
    with open_multirun(tmp_path, config) as (context, cfg):
        context.callbacks.on_multirun_start(config=cfg, config_name="config")
        skip_multirun_callbacks()
        context.callbacks.on_multirun_start(config=cfg, config_name="config")
        context.callbacks.on_job_start(config=cfg, task_function=print)
        context.callbacks.on_multirun_end(config=cfg, config_name="config")
    assert heard == ["multirun start", "job start"]


@pytest.mark.parametrize(("choice", "name"), [("basic", "OwnSweeper"), ("optuna", "OptunaSweeper")])
def test_the_chosen_sweeper_runs_whatever_class_a_file_names(tmp_path, monkeypatch, choice, name) -> None:
    monkeypatch.setattr(Plugins, "instantiate_sweeper", Plugins.instantiate_sweeper)
    always_use_sweeper("basic", OwnSweeper)
    stock = "hydra: {sweeper: {_target_: hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper}}\n"
    with open_multirun(tmp_path, stock, f"hydra/sweeper={choice}") as (context, cfg):
        sweeper = Plugins.instance().instantiate_sweeper(hydra_context=context, task_function=print, config=cfg)
        assert type(sweeper).__name__ == name
        assert sweeper.config is cfg if choice == "basic" else True
