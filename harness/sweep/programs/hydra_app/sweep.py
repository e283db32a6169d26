"""Sweep over an app: run its study, in workers that are started as the app was, or in this process."""

import inspect
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from harness.config.compose import remove_credentials
from harness.core.errors import ConfigError, RunFailedError
from harness.core.files import write_atomically
from harness.core.shortage import ShortageError
from harness.core.signals import INTERRUPT_STATUS, count_signals, failure_status, record_signal, was_signaled
from harness.core.terminal import print_fitted, print_notes
from harness.sweep.hydra_app_internals import WORKER_VARIABLE, read_job_error, without_callbacks
from harness.sweep.programs.hydra_app.app_checkpoint import read_checkpoint_note
from harness.sweep.programs.hydra_app.app_command import find_app_command
from harness.sweep.programs.hydra_app.app_space import apply_fixed_overrides, list_fixed_settings, read_app_overrides
from harness.sweep.programs.hydra_app.command_line import read_app_command_line, rename_app_options
from harness.sweep.programs.hydra_app.options import read_app_options
from harness.sweep.programs.hydra_app.request import SWEPT_CONFIG, SWEPT_SPACE, read_app_request
from harness.sweep.programs.hydra_app.runner import HydraAppRunner, RunningApp
from harness.sweep.request import BASIC_LAUNCHER, SweepRequest
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.setup import check_existing_study
from harness.sweep.study.spec import StudySpec
from harness.sweep.sweeper import run_study
from harness.sweep.trial_runner import MakeRunner
from harness.sweep.workers.launcher_pool import make_launcher_pool
from harness.sweep.workers.worker import EXIT_SHORTAGE, WorkerSpec, run_trials, run_worker

Jobs = list[list[JobReturn]]
INSTALLED = {"site-packages", "dist-packages"}
"""Folders of libraries."""


def run_app_sweep(
    config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]
) -> Jobs | None:
    """Run a new sweep over an app, or resume one; in a worker of a sweep, run its trials and exit.

    In a process that runs nothing but the app, errors end it: with status 2 for invalid input, 1 for a sweep that
    failed, 130 after Ctrl-C. Elsewhere they are raised, and the jobs are returned as by Hydra's own sweeper.
    """
    config = name_library_job(config, task)
    if WORKER_VARIABLE in os.environ:
        _run_app_worker(config, context, task, arguments)
    if find_app_command(config) is None:
        try:
            return [_sweep_in_process(config, context, task, arguments)]
        except ConfigError as error:
            raise ConfigError(rename_app_options(str(error))) from error
    try:
        _sweep_in_workers(config, context, task, arguments)
        return None
    except ConfigError as error:
        message, status = rename_app_options(str(error)), 2
    except RunFailedError as error:
        message, status = str(error), failure_status()
    except KeyboardInterrupt:
        message, status = "interrupted", failure_status(INTERRUPT_STATUS)
    print(message, file=sys.stderr)
    sys.exit(status)


def name_library_job(config: DictConfig, task: TaskFunction) -> DictConfig:
    """Return the configuration with the name of the main script, if Hydra took that of an installed library's file.

    That file holds the task function where a library, such as hydra-zen, has wrapped that of the user.
    """
    modules = [sys.modules.get(inspect.unwrap(task).__module__), sys.modules["__main__"]]
    library, main = (Path(getattr(one, "__file__", None) or "") for one in modules)
    is_wrapped = not INSTALLED.isdisjoint(library.parts) and INSTALLED.isdisjoint(main.parts) and main.name
    if not is_wrapped or config.hydra.job.name != library.stem:  # the user has set another
        return config
    named = config.copy()
    with read_write(named.hydra), open_dict(named.hydra):
        named.hydra.job.name = main.parent.name if main.stem == "__main__" else main.stem
    return named


def _run_app_worker(
    config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]
) -> NoReturn:
    """Run trials of a sweep over an app as a worker process, and exit.

    Raises:
        ConfigError: If the app is configured otherwise than where the sweep was started.
    """
    sys.stdin = _keep_stdin_from_children()
    app = _describe_app(config, context, task, arguments)

    def stop(number: int, frame: object) -> None:
        record_signal(number)
        if app.is_interruptible:
            raise KeyboardInterrupt

    def interrupt(number: int, frame: object) -> None:
        if app.is_in_task:  # which has sent it, as _thread.interrupt_main does: the sweep sends SIGTERM
            raise KeyboardInterrupt("the process got SIGINT")

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, interrupt)
    try:
        status = run_worker(partial(_make_checked_runner, app), was_signaled)
    except ConfigError as error:
        print(error, file=sys.stderr)
        status = 2
    sys.exit(status)


def _keep_stdin_from_children() -> TextIO:
    """Return standard input, whose end says that the sweep has died, and give an empty one to child processes."""
    stdin, empty = os.fdopen(os.dup(0)), os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    return stdin


def _sweep_in_workers(config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]) -> None:
    request = read_app_request(config, context, arguments, find_app_command(config))
    if _prepare_study(request, config):
        launched = partial(make_launcher_pool, *_prepare_launcher(config, context, request.folder))
        outcome = run_study(request, None if request.workers.launcher == BASIC_LAUNCHER else launched)
        print_notes(read_checkpoint_note(request.folder))
        outcome.end.raise_if_not_completed()


def _sweep_in_process(
    config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]
) -> list[JobReturn]:
    """Run all trials in this process, one after another, and return their jobs.

    Raises:
        ConfigError: If the input is invalid.
        RunFailedError: If the sweep failed, unless a task function raised an exception.
        Exception: That of the last task function that failed, if the sweep failed.
    """
    app = _describe_app(config, context, task, arguments)
    app.keeps_jobs = True
    app.was_signaled = partial(was_signaled, count_signals())  # an earlier sweep of a notebook may have been stopped
    request = read_app_request(config, context, arguments, None)
    if not _prepare_study(request, config):
        return []
    try:

        def make_runner(spec: StudySpec, program: Mapping[str, Any]) -> HydraAppRunner:
            return HydraAppRunner(spec, app)

        outcome = run_study(
            request, lambda _request, spec, _queue: InProcessWorkers(spec, make_runner, app.was_signaled)
        )
        print_notes(read_checkpoint_note(request.folder))
        outcome.end.raise_if_not_completed()
        return app.jobs
    except RunFailedError:
        failed = [job for job in app.jobs if job.status is JobStatus.FAILED]
        if not failed:
            raise
    raise read_job_error(failed[-1])  # with its own cause


def _prepare_study(request: SweepRequest, config: DictConfig) -> bool:
    """Say what will be done, check an existing study, and write multirun.yaml; return whether to go on."""
    print_notes(request.notices)
    check_existing_study(request)
    if request.options.dry_run:
        print_fitted(
            request.describe_size(),
            *(f"  {key}: {text}" for key, text in request.space.format_ranges().items()),
        )
        return False
    request.folder.mkdir(parents=True, exist_ok=True)
    write_atomically(request.folder / "multirun.yaml", OmegaConf.to_yaml(_hide_credentials(config)))
    return True


def _prepare_launcher(config: DictConfig, context: HydraContext, folder: Path) -> tuple[DictConfig, HydraContext]:
    """Return what a launcher is made with, whose jobs are workers: no jobs of the app, and none of its callbacks."""
    public = _hide_credentials(config)
    jobs = ["hydra.sweep.dir='" + str(folder / "jobs") + "'", "hydra.sweep.subdir=${hydra.job.num}"]
    with read_write(public.hydra):
        public.hydra.overrides.hydra.extend([*jobs, "hydra.job.chdir=false", "hydra.output_subdir=null"])
    return public, without_callbacks(context)


def _hide_credentials(config: DictConfig) -> DictConfig:
    public = config.copy()
    with suppress(OmegaConfBaseException):
        remove_credentials(public)
        return public
    raise ConfigError("an address in the configuration has a password; write it as ${oc.env:NAME}, or leave it out")


def _describe_app(
    config: DictConfig, context: HydraContext, task: TaskFunction, arguments: Sequence[str]
) -> RunningApp:
    overrides = read_app_overrides(read_app_options(config).sweeper["params"] or {}, arguments)
    command_line = read_app_command_line(config, context.config_loader, find_app_command(config), *overrides)
    return RunningApp(
        apply_fixed_overrides(config, context.config_loader, overrides), context, task, overrides.fixed, command_line
    )


def _make_checked_runner(app: RunningApp, spec: StudySpec, program: Mapping[str, Any]) -> HydraAppRunner:
    """Return the runner of a worker, whose app must have the same settings as the study.

    If its configurations are those of a sweep, as in a confirmation, `program` holds the settings of that.
    """
    space = SearchSpace.from_json(program[SWEPT_SPACE]) if SWEPT_SPACE in program else spec.build_search_space()
    swept = program.get(SWEPT_CONFIG, spec.config)
    settings = list_fixed_settings(app.config, space)
    changed = sorted(key for key in {**settings, **swept} if settings.get(key) != swept.get(key))
    if changed:
        remedy = "change them back" if SWEPT_CONFIG in program else "start the command again"
        raise ConfigError(f"{', '.join(changed)}: changed since the sweep was started; {remedy}")
    return HydraAppRunner(spec, app)


class InProcessWorkers:
    """A worker group of this process alone, which runs all trials when it is started."""

    size = 1

    def __init__(self, spec: WorkerSpec, make_runner: MakeRunner, is_stopping: Callable[[], bool]) -> None:
        self._spec, self._make_runner, self._is_stopping = spec, make_runner, is_stopping
        self._is_running, self._shortage = False, ""

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Run trials until none are left."""
        self._is_running = True
        try:
            run_trials(self._spec, self._make_runner, self._is_stopping)
        except ShortageError as error:
            self._shortage = str(error)
        finally:
            self._is_running = False

    @property
    def has_workers(self) -> bool:
        return False

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Return this worker if it ran out of disk space."""
        return [(0, EXIT_SHORTAGE)] if self._shortage else []

    def describe_last_output(self, index: int) -> str:
        return self._shortage

    def stop_workers(self) -> None:
        """Do nothing: signals are seen between trials and where the task function reports."""

    def kill_workers(self) -> None:
        """Interrupt the task function."""
        if self._is_running:
            raise KeyboardInterrupt
