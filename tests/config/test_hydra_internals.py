"""Tests of the private parts of Hydra that the project depends on: they fail when Hydra changes them."""

import inspect

import pytest
from hydra._internal import hydra as hydra_module
from hydra._internal import utils
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from omegaconf import DictConfig

from harness.config.hydra_internals import adjust_files, adjusts_files, run_hydra_app, watch_compositions
from harness.core.errors import ConfigError


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


def test_a_configuration_is_checked_before_hydra_configures_logging_or_builds_callbacks(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    acted = []
    for module, name in ((hydra_module, "configure_log"), (hydra_module, "Callbacks")):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: acted.append(name))
    checked = []

    def refuse(cfg: DictConfig) -> None:
        checked.append(cfg.hydra.job_logging)
        raise ConfigError("refused")

    with pytest.raises(ConfigError, match="refused"), watch_compositions(refuse, checked.append):
        run_app(tmp_path, "lr=0.5")
    assert len(checked) == 1
    assert not acted


def test_files_are_adjusted_within_the_context_only(tmp_path) -> None:
    class Rules:
        def __init__(self, *arguments: object) -> None:
            made.append(self)
            self.paths: list[str] = []

        def adjust_file(self, path: str, content: DictConfig) -> DictConfig:
            self.paths.append(path)
            return content

    made: list[Rules] = []
    inner: list[tuple] = []
    with adjust_files(Rules):
        run_app(tmp_path, "lr=0.5")
        assert adjusts_files()
        with adjust_files(lambda *arguments: inner.append(arguments) or Rules()):
            run_app(tmp_path, "lr=0.5")
    assert [rules.paths.count("config") for rules in made] == [1, 1]
    assert len(inner) == 1
    run_app(tmp_path, "lr=0.5")
    assert len(made) == 2
    assert not adjusts_files()


def test_entries_of_the_search_path_are_checked_before_they_are_read(tmp_path) -> None:
    sources: list[str] = []
    with watch_compositions(lambda cfg: None, sources.append):
        run_app(tmp_path, f"hydra.searchpath=[file://{tmp_path}/a,{tmp_path}/b]")
    assert set(sources) == {f"file://{tmp_path}/a", f"{tmp_path}/b"}


def test_compositions_are_watched_within_the_context_only(tmp_path) -> None:
    methods = [(ConfigLoaderImpl, "_load_configuration"), (ConfigRepository, "initialize_sources")]
    methods.append((Plugins, "instantiate_launcher"))
    before = [getattr(owner, name) for owner, name in methods]
    with watch_compositions(lambda cfg: None, lambda source: None):
        assert not {getattr(owner, name) for owner, name in methods} & set(before)
    assert [getattr(owner, name) for owner, name in methods] == before
