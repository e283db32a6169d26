"""Hydra apps for tests: their files, sweeps of them in this process, and in processes of their own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from hydra._internal.callbacks import Callbacks
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from harness.record.metrics_file import TRIAL_FILE
from tests.conftest import ROOT

HARNESS = ("hydra/sweeper=harness", "hydra.sweeper.mlflow=false")


@contextmanager
def start_hydra(folder: Path, config: str | None) -> Iterator[Hydra]:
    """Start Hydra in this process for the app `app` with the folder's configurations, of which this is config.yaml."""
    if config is not None:
        (folder / "config.yaml").write_text(config)
    previous = HydraConfig.instance().cfg
    hydra = Hydra.create_main_hydra2("app", create_config_search_path(str(folder)))
    try:
        yield hydra
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = previous


@contextmanager
def open_multirun(folder: Path, config: str, *overrides: str) -> Iterator[tuple[HydraContext, DictConfig]]:
    """Compose a sweep of the app with this config.yaml as `python app.py -m OVERRIDES` would."""
    with start_hydra(folder, config) as hydra:
        cfg = hydra.compose_config("config", [*overrides, "hydra.mode=MULTIRUN"], RunMode.MULTIRUN)
        HydraConfig.instance().set_config(cfg)
        yield HydraContext(config_loader=hydra.config_loader, callbacks=Callbacks(cfg)), cfg


def sweep_here(
    folder: Path, task: Callable[[DictConfig], Any], config: str | None, *overrides: str, name: str = "config"
) -> list[JobReturn]:
    """Run a sweep of the app in this process, in `folder`/sweep, and return its jobs."""
    with start_hydra(folder, config) as hydra:
        given = [*HARNESS, f"hydra.sweep.dir={folder}/sweep", *overrides]
        return hydra.multirun(name, task, given)[0]


def load_app_study(folder: Path) -> optuna.Study:
    """Open the only study in a sweep's folder."""
    storage = JournalStorage(JournalFileBackend(str(folder / "study.journal")))
    [name] = optuna.get_all_study_names(storage)
    return optuna.load_study(study_name=name, storage=storage)


def read_results(study: optuna.Study) -> list[tuple[str, str]]:
    """Return status and reason of each trial that has ended."""
    results = [trial.user_attrs["result"] for trial in study.trials if "result" in trial.user_attrs]
    return [(result["status"], result["reason"]) for result in results]


def read_record(folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the record of a trial."""
    return [json.loads(line) for line in (folder / TRIAL_FILE).read_text().splitlines()]


def app_environment(*pythonpath: Path) -> dict[str, str]:
    path = os.pathsep.join(map(str, (*pythonpath, ROOT)))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}


def run_app(folder: Path, *arguments: str, program: tuple[str, ...] = ("app.py",)) -> subprocess.CompletedProcess[str]:
    """Run `python PROGRAM ARGUMENTS` in a folder, without upload to MLflow."""
    command = [sys.executable, *program, *arguments]
    return subprocess.run(command, cwd=folder, env=app_environment(), capture_output=True, text=True, timeout=180)
