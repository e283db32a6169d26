"""Trials that are jobs of a Hydra app, run in this process."""

import gc
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.trial import Trial

from harness.config.compose import flatten_config
from harness.config.overrides import read_override_key
from harness.core.credentials import hide_credentials_in_text, hide_secret_words, write_traceback
from harness.core.errors import ConfigError, describe_exception
from harness.core.events import Status
from harness.core.paths import TRACEBACK_FILE
from harness.core.ranks import is_first_process
from harness.core.signals import was_signaled
from harness.record.trial_record import TrialEnd, TrialRecord, TrialStart
from harness.run.provenance import describe_environment
from harness.sweep.hydra_app_internals import read_job_error
from harness.sweep.programs.custom_space import load_custom_space
from harness.sweep.programs.hydra_app.app_checkpoint import TrialCheckpoint, find_recorded_start
from harness.sweep.programs.hydra_app.app_job import run_app_job
from harness.sweep.programs.hydra_app.app_space import describe_compose_error
from harness.sweep.programs.hydra_app.command_line import list_value_overrides
from harness.sweep.programs.hydra_app.objective_values import ObjectiveError, is_diverged, read_objective_values
from harness.sweep.programs.trial_start import describe_trial_start
from harness.sweep.reporting import Interrupted, Paused, Pruned, receive_reports
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import STOPPED, CommandLine, Reporter, TrialJob
from harness.tracking.run_context import tag_started_runs
from harness.tracking.upload_cursor import rewound_upload


@dataclass
class RunningApp:
    """An app that Hydra has started in this process for a sweep.

    `fixed` are the overrides that all its jobs share. `jobs` are those that have ended, if they are kept.
    `is_in_task` says that the task function runs, and `is_interruptible` that it also has reported nothing, so that
    only an exception can stop it. `was_signaled` says that the sweep has received a stop signal in this process.
    """

    config: DictConfig
    context: HydraContext
    task_function: TaskFunction
    fixed: Sequence[str]
    command_line: CommandLine
    was_signaled: Callable[[], bool] = was_signaled
    keeps_jobs: bool = False
    jobs: list[JobReturn] = field(default_factory=list)
    is_interruptible: bool = False
    is_in_task: bool = False


class HydraAppRunner:
    """Run each trial as Hydra runs a job of a sweep."""

    def __init__(self, spec: StudySpec, app: RunningApp) -> None:
        self._spec, self._app = spec, app
        self._extend: Callable[[Trial], None] | None = None
        if spec.custom_search_space is not None:
            self._extend = load_custom_space(spec.custom_search_space, app.config, app.fixed)

    def extend_trial(self, trial: Trial) -> None:
        """Suggest the values of the user's function, if there is one."""
        if self._extend is not None:
            self._extend(trial)

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        trial = _AppTrial(self._spec, self._app, job, reporter, should_stop)
        return trial.run() if is_first_process() else trial.run_beside_first()


class _AppTrial:
    """One trial, or its part after a pause: its job, its record, and what its task function has reported."""

    def __init__(
        self, spec: StudySpec, app: RunningApp, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]
    ) -> None:
        self._spec, self._app, self._job = spec, app, job
        self._reporter, self._should_stop = reporter, should_stop
        own_keys = {key.lstrip("+") for key in job.values}  # one of them may be fixed, if only the seed differs
        fixed = [one for one in app.fixed if read_override_key(one) not in own_keys]
        self._overrides = [*list_value_overrides(job.values), *fixed]
        self._record: TrialRecord | None = None
        self._checkpoint: TrialCheckpoint | None = None
        self._ended_early: Status | None = None
        self._progress = ""
        self._started = time.monotonic()

    def run(self) -> TrialResult:
        """Run the trial and record how it ended.

        Raises:
            ConfigError: If its configuration cannot be composed.
            Exception: What the task function raises.
        """
        app = self._app
        try:
            ended = self._run_job(self._call_task)
        except BaseException as error:
            is_exit = isinstance(error, KeyboardInterrupt | SystemExit)  # Lightning turns the former into the latter
            if is_exit and self._is_stopped():
                return self._end("interrupted", STOPPED)
            if isinstance(error, SystemExit):
                reason = f"the task function called sys.exit({error.code!r}) and returned no value"
                return self._end("failed", reason)
            # Of the task function or a callback of Hydra.
            if self._record is not None or not isinstance(error, Exception):
                return self._fail(error)
            raise ConfigError(
                self._end("failed", describe_compose_error(error, hide_secret_words(self._overrides))).reason
            ) from error
        finally:
            app.is_interruptible = app.is_in_task = False
        if app.keeps_jobs and self._ended_early != "paused":
            app.jobs.append(ended)
        return self._read_end(ended)

    def run_beside_first(self) -> TrialResult:
        """Run the job in a process that trains together with the first one, which keeps the record of the trial.

        Raises:
            Exception: What the task function raises, and what does not compose.
        """
        start = find_recorded_start(self._job)

        def call_task(cfg: DictConfig) -> Any:
            with receive_reports(lambda *_: None, start), tag_started_runs(self._job.folder):
                return self._app.task_function(cfg)

        ended = self._run_job(call_task)
        if ended.status is not JobStatus.COMPLETED:
            raise read_job_error(ended)
        return TrialResult("completed")

    def _run_job(self, call_task: TaskFunction) -> JobReturn:
        app, job = self._app, self._job
        return run_app_job(app.context, call_task, app.config, self._overrides, job.number, str(job.folder.parent))

    def _read_end(self, ended: JobReturn) -> TrialResult:
        if self._ended_early:
            return self._end(self._ended_early, STOPPED if self._ended_early == "interrupted" else self._progress)
        if ended.status is not JobStatus.COMPLETED:
            return self._fail(read_job_error(ended))
        try:
            values = read_objective_values(ended.return_value, self._spec.objectives)
        except ObjectiveError as error:
            return self._end("failed", str(error), ends_sweep=True)
        if is_diverged(values):
            return self._end("diverged", f"the task function returned {', '.join(map(str, values))}", values)
        return self._end("completed", "", values)

    def _call_task(self, cfg: DictConfig) -> Any:
        """Call the task function, and record what it reports."""
        _, checkpoint = self._open_record(cfg)
        self._app.is_interruptible = self._app.is_in_task = True
        try:
            with receive_reports(self._receive, checkpoint.find_start()), tag_started_runs(self._job.folder):
                return self._app.task_function(cfg)
        except Pruned as error:
            if not self._ended_early:  # the task function has pruned itself
                self._ended_early, self._progress = "pruned", str(error)
        except Paused:
            if not self._ended_early:
                raise
        except Interrupted:
            if not self._ended_early and not self._is_stopped():
                raise
            self._ended_early = self._ended_early or "interrupted"
        finally:
            self._app.is_interruptible = self._app.is_in_task = False

    def _is_stopped(self) -> bool:
        """Return whether the sweep was asked to stop, so that the trial is not to blame for its end."""
        return self._app.was_signaled() or self._should_stop()

    def _open_record(self, cfg: DictConfig) -> tuple[TrialRecord, TrialCheckpoint]:
        """Return the record of the trial and its checkpoint; the first call begins or continues the record."""
        if self._record is None or self._checkpoint is None:
            start, is_continued = self._describe_start(cfg), self._job.is_continued
            # A record that is continued loses its end only.
            with rewound_upload(self._job.folder, sys.maxsize) if is_continued else nullcontext():
                self._record = TrialRecord(self._job.folder, start, is_continued=is_continued)
            self._checkpoint = TrialCheckpoint(self._job, self._record)
        return self._record, self._checkpoint

    def _receive(self, value: float, step: int, total_steps: int | None, path: str | None) -> None:
        """Record a value, and end the trial if it is paused or pruned, or the sweep stops.

        At the last step nothing ends it: programs return the value of that step, and few can if they begin after it.
        """
        assert self._record is not None
        assert self._checkpoint is not None
        self._app.is_interruptible = False
        is_last = total_steps is not None and step >= total_steps
        self._checkpoint.take_report(path, is_last=is_last)
        self._record.add_metrics(step, {self._spec.objectives[0]: value}, total_steps)
        self._progress = f"{value:.4g} at step {step}" + (f" of {total_steps}" if total_steps else "")
        can_pause = bool(self._checkpoint.find_intact())
        advice = self._reporter.report_step(value, step, total_steps, can_pause=can_pause)
        self._checkpoint.record_latest()
        if advice == "prune":
            self._ended_early = "pruned"
            raise Pruned(self._progress)
        if advice == "pause":
            self._ended_early = "paused"
            raise Paused(self._progress)
        if self._should_stop() and not is_last:
            self._ended_early = "interrupted"
            raise Interrupted(STOPPED)

    def _describe_start(self, cfg: DictConfig) -> TrialStart:
        app, job = self._app, self._job
        command = app.command_line.format_command(job.values)
        environment = describe_environment(Path(app.config.hydra.runtime.cwd))
        return describe_trial_start(self._spec, job, _list_settings(cfg), command, environment, self._overrides)

    def _fail(self, error: BaseException) -> TrialResult:
        """Record an exception of the task function, and raise it again for the worker's log.

        One that is meant to end a process, such as KeyboardInterrupt, ends the trial alone.

        Raises:
            Exception: The same.
        """
        write_traceback(self._job.folder / TRACEBACK_FILE, error)
        result = self._end("failed", describe_exception(error))
        gc.collect()
        if isinstance(error, Exception):
            raise error
        text = "".join(traceback.format_exception(error))
        print(hide_credentials_in_text(text), file=sys.stderr)  # the worker goes on
        return result

    def _end(
        self, status: Status, reason: str, values: Sequence[float] = (), *, ends_sweep: bool = False
    ) -> TrialResult:
        record, checkpoint = self._open_record(OmegaConf.create())
        seconds = record.progress.seconds + time.monotonic() - self._started
        reason = hide_credentials_in_text(reason)
        named = dict(zip(self._spec.objectives, values, strict=False))
        path = {"paused": checkpoint.path, "interrupted": checkpoint.find_intact()}.get(status, "")
        record.end(TrialEnd(status, reason, seconds, named, self._list_artifacts()))
        return TrialResult(
            status=status,
            reason=reason,
            values=tuple(values),
            seconds=seconds,
            fraction_done=1.0 if status == "completed" else self._reporter.fraction_done,
            folder=self._job.folder.name,
            ends_sweep=ends_sweep,
            checkpoint=path,
        )

    def _list_artifacts(self) -> list[str]:
        """Return the log of Hydra in the trial's folder; its .hydra/*.yaml hold the settings with their secrets."""
        return sorted(path.name for path in self._job.folder.glob("*.log"))


def _list_settings(cfg: DictConfig) -> dict[str, str]:
    """Return all settings of a job as texts by dotted key, interpolations resolved if all can be."""
    try:
        return flatten_config(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True)) if cfg else {}
    except (OmegaConfBaseException, ValueError, TypeError):
        return flatten_config(OmegaConf.to_container(cfg, resolve=False, enum_to_str=True))
