"""Tests of the private parts of Hydra that the project depends on: they fail when Hydra changes them."""

import inspect

import pytest
from hydra._internal import utils
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from harness.config.hydra_internals import run_hydra_app


def run_app(tmp_path, *arguments: str) -> list[tuple[DictConfig, str]]:
    (tmp_path / "config.yaml").write_text(
        "defaults: [_self_, override hydra/job_logging: disabled]\n"
        "lr: 0.1\nhydra: {run: {dir: .}, output_subdir: null}\n"
    )
    seen = []

    def task(cfg: DictConfig) -> None:
        seen.append((cfg, HydraConfig.get().job.name))

    run_hydra_app(task, arguments, config_dir=str(tmp_path), config_name="config", trusted=())
    return seen


def test_the_task_gets_the_config_composed_from_the_arguments(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest", "lr=9"])
    [(cfg, _)] = run_app(tmp_path, "lr=0.5")
    assert cfg.lr == 0.5


def test_options_of_hydra_are_understood_between_overrides(tmp_path, capsys) -> None:
    assert run_app(tmp_path, "lr=0.5", "--cfg", "job", "+seed=1") == []
    assert capsys.readouterr().out.split() == ["lr:", "0.5", "seed:", "1"]


@pytest.mark.parametrize("parameter", ["args", "args_parser", "task_function", "config_path", "config_name"])
def test_hydra_still_takes_the_arguments_that_are_passed(parameter) -> None:
    assert parameter in inspect.signature(utils._run_hydra).parameters
