"""Create the folder of a run and the files that describe the run."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from omegaconf import DictConfig

from harness.config.schema import RunSettings
from harness.core.distributed import ProcessGroup
from harness.core.errors import ConfigError
from harness.core.files import remove_folder, stays_locked
from harness.core.formatting import format_bytes
from harness.core.paths import TRACEBACK_FILE
from harness.core.shortage import ShortageError, free_bytes
from harness.core.state import TrainState
from harness.core.task import Task
from harness.record import entry_writer, metrics_file
from harness.record.example_losses import BEST_EXAMPLES, FINAL_EXAMPLES, TEST_EXAMPLES
from harness.record.results_file import RESULT_FILES
from harness.run import provenance
from harness.tracking.upload_cursor import CURSOR_FILE, LOCK_FILE, replace_upload
from harness.training.checkpoint import estimate_checkpoint_bytes

# Files of a run that may be written before its record begins.
FIRST_FILES = (
    "config.yaml", "command.txt", "diff.patch", "start.txt", CURSOR_FILE, LOCK_FILE, metrics_file.METRICS_FILE,
)  # fmt: skip
LATER_PATTERNS = (
    "figures", "tensorboard", TRACEBACK_FILE, BEST_EXAMPLES, FINAL_EXAMPLES, TEST_EXAMPLES, *RESULT_FILES,
    f".{metrics_file.METRICS_FILE}.*",
)  # fmt: skip
"""Files that a run writes later."""


def check_unused(folder: Path) -> None:
    """Check that `folder` does not hold a run; the uploads of one that `clear_run_dir` removed do not count.

    Raises:
        ConfigError: If it does.
    """
    names = {"checkpoints", *FIRST_FILES} - {CURSOR_FILE, LOCK_FILE}
    if found := next((name for name in sorted(names) if os.path.lexists(folder / name)), None):
        raise ConfigError(f"{folder}: already holds a run ({found}); use another folder")


def check_free_space(settings: RunSettings, state: TrainState) -> None:
    """Check that the weights of two checkpoints fit on the disk: the last one stays until the next is complete.

    Raises:
        ShortageError: If they do not.
    """
    needed, free = 2 * estimate_checkpoint_bytes(state, n_moments=0), free_bytes(settings.output_dir)
    if free is not None and free < needed:
        raise ShortageError(
            f"output_dir: {settings.output_dir}: two checkpoints take at least {format_bytes(needed)} and "
            f"{format_bytes(free)} are free; make room, or use another output_dir"
        )


def create_run_dir(cfg: DictConfig, settings: RunSettings, given: Path | None, task: Task, command: str) -> Path:
    """Create the folder of a run, with the resolved configuration, the provenance and the task's files in it.

    If that fails, nothing of it is left.

    Raises:
        ConfigError: If another run took the folder after `check_unused`.
    """
    folder = given.absolute() if given else _create_unique_dir(cfg, settings)
    try:
        (folder / "checkpoints").mkdir(parents=True)
    except FileExistsError as error:
        raise ConfigError(f"{folder}: another run uses it; use another folder") from error
    try:
        provenance.write_provenance(folder, cfg, command)
        for name, path in task.files.items():
            shutil.copytree(path, folder / "checkpoints" / name)
    except BaseException:
        _remove_run_dir(folder)
        raise
    return folder


@contextmanager
def removed_unless_begun(folder: Path, processes: ProcessGroup) -> Iterator[None]:
    """Remove the folder of a run that ends with an exception before its record has begun."""
    try:
        yield
    except BaseException:
        if processes.is_main and not metrics_file.has_entries(folder / metrics_file.METRICS_FILE):
            _remove_run_dir(folder)
        raise


def _remove_run_dir(folder: Path) -> None:
    """Remove what a run writes into its folder before it trains, and the folder if it then is empty.

    The user may have named a folder that holds other files.
    """
    remove_folder(folder / "checkpoints")
    for name in FIRST_FILES:
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # not empty
        folder.rmdir()


def _create_unique_dir(cfg: DictConfig, settings: RunSettings) -> Path:
    """Create a folder named by the time and by the run's name, or its optimizer and schedule."""
    choices = (cfg.optimizer._target_, cfg.schedule._target_)
    name = cfg.name or "-".join(target.rpartition(".")[2].lower().removeprefix("build_") for target in choices)
    stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{name}"
    for attempt in range(1000):
        folder = settings.output_dir / (f"{stem}_{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            continue
    raise ConfigError(f"output_dir: {settings.output_dir}: already has 1000 runs named {stem}; use another name")


def clear_run_dir(folder: Path) -> None:
    """Remove the run in `folder`, so that it can start over there; what others have put there stays.

    Its run in MLflow is deleted when the new one is created. If this process is killed, the next one clears the rest.

    Raises:
        ConfigError: If a process is writing the run.
    """
    record = folder / metrics_file.METRICS_FILE
    if record.exists() and stays_locked(record, entry_writer.LOCK_WAIT_S):
        raise ConfigError(f"{folder}: another process writes this run; wait for its end")
    replace_upload(folder)
    remove_folder(folder / "checkpoints")
    for path in (path for pattern in LATER_PATTERNS for path in folder.glob(pattern)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in FIRST_FILES:
        if name not in (CURSOR_FILE, LOCK_FILE):
            (folder / name).unlink(missing_ok=True)


def list_description_files(folder: Path) -> tuple[Path, ...]:
    """Return the files in a run's folder that describe the run."""
    return tuple(path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch"))
