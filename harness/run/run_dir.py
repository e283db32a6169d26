"""Create the folder of a run and the files that describe the run."""

import shutil
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from harness.config.schema import RunSettings
from harness.core.errors import ConfigError
from harness.core.files import remove_folder
from harness.core.task import Task
from harness.record import metrics_file
from harness.run import provenance


def check_unused(folder: Path) -> None:
    """Check that `folder` does not hold a run.

    Raises:
        ConfigError: If it does.
    """
    if (folder / metrics_file.METRICS_FILE).exists():
        raise ConfigError(f"{folder}: already holds a run; use another folder")


def create_run_dir(cfg: DictConfig, settings: RunSettings, given: Path | None, task: Task, command: str) -> Path:
    """Create the folder of a run, with the resolved configuration, the provenance and the task's files in it.

    If that fails, no folder is left.
    """
    folder = given.absolute() if given else _create_unique_dir(cfg, settings)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        provenance.write_provenance(folder, cfg, command)
        for name, path in task.files.items():
            shutil.copytree(path, folder / "checkpoints" / name)
    except BaseException:
        remove_folder(folder)
        raise
    return folder


def _create_unique_dir(cfg: DictConfig, settings: RunSettings) -> Path:
    """Create a folder named by the time and by the run's name, or its optimizer and schedule."""
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
    raise ConfigError(f"output_dir: {settings.output_dir}: already has 1000 runs named {stem}; use another name")


def list_description_files(folder: Path) -> tuple[Path, ...]:
    """Return the files in a run's folder that describe the run."""
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch"))
