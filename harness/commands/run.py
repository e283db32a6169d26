"""plateau run optimizer=adamw schedule=cosine: compose a configuration and run it, or sweep it with -m."""

import contextlib
import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from harness.commands.failures import report_error, report_failure
from harness.config.compose import (
    check_compositions,
    compose_config,
    format_search_path,
    list_left_out_of_job,
    list_search_path_overrides,
)
from harness.config.group_values import check_group_values
from harness.config.hydra_internals import adjusts_files, parse_hydra_arguments, run_hydra_app
from harness.config.locks import check_locked
from harness.config.overrides import check_no_sweep_settings
from harness.config.trust import check_hydra_settings
from harness.config.trusted_components import list_hydra_targets
from harness.core.errors import RunFailedError
from harness.core.extras import find_version
from harness.core.paths import TRACEBACK_FILE, config_dir, run_command
from harness.core.shortage import ShortageError
from harness.core.signals import (
    INTERRUPT_STATUS,
    end_before_teardown,
    failure_status,
    interrupt_on_signals,
    was_signaled,
)
from harness.core.terminal import end_start, paragraph_width, show_lines_at_once, wrap_text
from harness.core.threads import use_passive_waiting

RESUME_REMEDY = "run the same command again, or resume with start=resume start.run=RUN"


def run_job(cfg: DictConfig) -> float:
    """Run one job and return its best validation loss, for Hydra's own sweepers.

    A single run that fails exits with its status, and invalid input with status 2.
    """
    from harness.core import distributed
    from harness.run.notices import describe_choices
    from harness.run.runner import run

    end_start()
    interrupt_on_signals()
    job = HydraConfig.get()
    given = cast(list[str], OmegaConf.to_container(job.overrides.task))  # unresolved: one may be key=${other.key}
    try:
        check_hydra_settings(cast(DictConfig, job))  # composed here, outside `main`, if a launcher started this process
        overrides = [*list_search_path_overrides(job), *given]
        if not adjusts_files():  # composed without our rules, for the same reason
            cfg = compose_config(overrides)
        check_locked(cfg, given)
        if job.mode is not RunMode.MULTIRUN:
            check_no_sweep_settings([*given, *map(str, job.overrides.hydra)])
        left_out = list_left_out_of_job() if job.mode is not RunMode.MULTIRUN else None
        notices = describe_choices(cfg, overrides, left_out)
        result = run(cfg, overrides=overrides, notices=notices, **_sweep_arguments())
    except ShortageError as error:
        sys.exit(report_error(f"interrupted: {error}; once there is enough, {RESUME_REMEDY}", 1))
    except Exception as error:  # Hydra would print its own message
        sys.exit(report_failure(error, given))
    finally:
        distributed.leave_process_group()
    if HydraConfig.get().mode is RunMode.MULTIRUN:
        if result.status == "interrupted":
            raise KeyboardInterrupt(f"interrupted: {result.reason}")  # Hydra would start the next run
        if was_signaled():  # too late to interrupt the run
            raise KeyboardInterrupt("interrupted after a completed run")
        if result.status == "diverged":
            return math.nan
        if result.status not in ("completed", "pruned"):
            raise RunFailedError(f"{result.status}: {result.reason}")
    elif result.status not in ("completed", "pruned"):
        file = result.folder / TRACEBACK_FILE
        hint = f"; traceback: {file}" if file.exists() else ""
        # of several processes, perhaps only another one received the signal
        status = failure_status(INTERRUPT_STATUS if result.status == "interrupted" else 1)
        sys.exit(report_error(f"{result.status}: {result.reason}{hint}", status))
    return result.best_val_loss


def _sweep_arguments() -> dict[str, Any]:
    """Return the folder and tags of a run that one of Hydra's own sweepers started; nothing for a single run."""
    from harness.tracking import run_names, run_uploader, sweep_uploader

    job = HydraConfig.get()
    if job.mode is not RunMode.MULTIRUN:
        return {}
    sweep = Path(job.sweep.dir)
    tags = {}
    if sweep_uploader.is_sweep_folder(sweep):
        identity = sweep_uploader.read_sweep_identity(sweep)
        tags = {run_uploader.SWEEP_TAG: identity["id"], run_names.STUDY_TAG: identity["name"]}
    return {"folder": Path(job.runtime.output_dir), "tags": tags}


def main(arguments: Sequence[str]) -> int:
    """Return the exit status: 0; 1 if a run or sweep failed or diverged; 2 for bad input; 128 + a signal's number."""
    try:
        status = _compose_and_run(arguments)
    except SystemExit as error:  # Hydra exits where `run_job` does; a text is a failure
        _end_distributed(error.code if isinstance(error.code, int) else int(error.code is not None))
        raise
    _end_distributed(status)
    return status


def _end_distributed(status: int) -> None:
    if os.environ.get("WORLD_SIZE", "1") != "1":
        end_before_teardown(status)


def _compose_and_run(arguments: Sequence[str]) -> int:
    use_passive_waiting()
    show_lines_at_once()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # Hydra raises, and every message is made here
    if "--version" in arguments:
        print(f"plateau {find_version()}, with Hydra {hydra.__version__}")
        return 0
    try:
        check_group_values(arguments)
        arguments = _complete_resume(arguments)
        with _fit_help(arguments), check_compositions():
            run_hydra_app(
                run_job,
                arguments,
                config_dir=str(config_dir()),
                config_name="config",
                trusted=list_hydra_targets(),
            )
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, ValueError) and str(error).startswith("Only one of --run"):
            return report_error(f"{error}; choose one", 2)
        return report_failure(error, arguments)
    return 0


@contextlib.contextmanager
def _fit_help(arguments: Sequence[str]) -> Iterator[None]:
    """Wrap the help that Hydra prints to the terminal, and name the command that was installed."""
    if not {"--help", "-h"} & set(arguments):
        yield
        return
    printed, width = io.StringIO(), paragraph_width()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:  # Hydra exits
        for line in printed.getvalue().replace("python run.py", " ".join(run_command())).rstrip().splitlines():
            print(*([line] if len(line) <= width else wrap_text(line, width, rest="  ")), sep="\n")


def _complete_resume(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the choices of the run that they resume, if any."""
    from harness.run.resumed_settings import take_over_settings

    args = parse_hydra_arguments(arguments)
    options = [argument for argument in arguments if argument not in args.overrides]
    folders = [format_search_path([f"file://{Path(args.config_dir).absolute()}"])] if args.config_dir else []
    overrides = take_over_settings([*folders, *args.overrides], args.multirun)
    if overrides == [*folders, *args.overrides]:
        return list(arguments)
    return [*options, *(override for override in overrides if override not in folders)]
