"""A run's folder: one that no run had, with what describes the run in it."""

import shutil
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from harness.config.schema import RunSettings
from harness.core.errors import ConfigError
from harness.core.task import Task
from harness.record import metrics_file
from harness.run import provenance


def check_unused(folder: Path) -> None:
    """ConfigError where `folder` holds a run."""
    if (folder / metrics_file.METRICS_FILE).exists():
        raise ConfigError(f"{folder} holds a run already; give another folder")


def create_run_dir(cfg: DictConfig, settings: RunSettings, given: Path | None, task: Task, command: str) -> Path:
    """The folder of a run that is about to train, with the resolved configuration, the code's state and the task's
    files in it."""
    folder = given.absolute() if given else _create_unique_dir(cfg, settings)
    folder.mkdir(parents=True, exist_ok=True)
    provenance.write_provenance(folder, cfg, command)
    for name, path in task.files.items():
        shutil.copytree(path, folder / "checkpoints" / name)
    return folder


def _create_unique_dir(cfg: DictConfig, settings: RunSettings) -> Path:
    """A folder that no run had, named by the instant and the choices."""
    choices = (cfg.optimizer._target_, cfg.schedule._target_)
    name = cfg.name or "-".join(target.rpartition(".")[2].lower() for target in choices)
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    for attempt in range(1000):
        folder = settings.output_dir / (f"{stem}_{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise ConfigError(f"output_dir: {settings.output_dir} has a thousand runs named {stem}")


def list_description_files(folder: Path) -> tuple[Path, ...]:
    """The files that say what the run was."""
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch"))
