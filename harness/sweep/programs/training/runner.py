"""Trials that are runs of this package's own train function."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from optuna.trial import Trial

from harness.config.option_values import describe_left_out
from harness.core.checkpoint_names import list_saved_steps
from harness.core.events import EvalEnd, Event, Status
from harness.core.ranks import count_processes, is_first_process
from harness.run.result import RunResult
from harness.sweep.programs.custom_space import load_custom_space
from harness.sweep.programs.training.command_line import list_trial_overrides
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS, rebuild_config_space
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import STOPPED, Reporter, TrialJob
from harness.tracking.run_names import STUDY_TAG
from harness.tracking.run_uploader import SWEEP_TAG
from harness.training.policies import Decision, Policy, Stop


class TrainingRunner:
    """Compose a trial's configuration and train with it."""

    def __init__(self, spec: StudySpec, program: Mapping[str, Any]) -> None:
        import harness.run.runner  # noqa: F401  # imports torch now, so that no claimed trial waits for it

        self._spec, self._space = spec, rebuild_config_space(spec, program)
        self._extend: Callable[[Trial], None] | None = None
        if spec.custom_search_space is not None:
            self._extend = load_custom_space(
                spec.custom_search_space, self._space.compose_config({}), self._space.fixed
            )

    def extend_trial(self, trial: Trial) -> None:
        """Suggest the values of the user's function, if there is one."""
        if self._extend is not None:
            self._extend(trial)

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        from harness.core.distributed import leave_process_group
        from harness.run.continuation import CannotContinue
        from harness.run.run_dir import clear_run_dir

        try:
            result = self._train(job, reporter, should_stop)
        except CannotContinue as error:
            print(f"trial {job.number} starts over: {error}")
            if is_first_process():  # the others wait for it in their next run
                clear_run_dir(job.folder)
            result = self._train(replace(job, is_continued=False), reporter, should_stop)
        if count_processes() > 1:
            leave_process_group()
        return self._to_trial_result(result, job)

    def _train(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> RunResult:
        from harness.run.runner import run

        cfg = self._space.compose_config(job.values, TRIAL_DEFAULTS)
        if cfg.device.threads is None:
            cfg.device.threads = job.n_threads
        return run(
            cfg,
            [follow_advice(reporter), stop_when(should_stop)],
            folder=job.folder,
            probes=job.rungs,
            is_continued=job.is_continued,
            tags={SWEEP_TAG: job.sweep_id, STUDY_TAG: job.study_name, **job.tags},
            params={key: str(value) for key, value in job.values.items() if key in self._space.group_options},
            overrides=list_trial_overrides(self._space.current, job.values),
            notices=describe_left_out(self._space.list_left_out(job.values, TRIAL_DEFAULTS)),
        )

    def _to_trial_result(self, result: RunResult, job: TrialJob) -> TrialResult:
        effective = result.effective
        if effective is None:  # training its base model did not complete
            status: Status = "interrupted" if result.status == "interrupted" else "failed"
            return TrialResult(status, result.reason, tokens=result.tokens, seconds=result.seconds)
        measured = {
            "best_val_loss": result.best_val_loss,
            "test_loss": math.nan if result.test_loss is None else result.test_loss,
            "tokens": result.tokens,
            "seconds": result.seconds,
            "trainable_parameters": effective.trainable_parameters,
        }
        return TrialResult(
            status=result.status,
            reason=result.reason,
            values=tuple(float(measured[name]) for name in self._spec.objectives),
            best_step=result.best_step,
            tokens=result.tokens,
            seconds=result.seconds,
            fraction_done=(result.step - effective.first_step) / max(1, effective.total_steps - effective.first_step),
            checkpoint=_find_checkpoints(result),
            folder=job.folder.name,
            threads=effective.threads,
            device=effective.device,
        )


def _find_checkpoints(result: RunResult) -> str:
    """Return the folder from which a run that is paused or interrupted can be continued, empty without one."""
    folder = result.folder / "checkpoints"
    return str(folder) if result.status in ("paused", "interrupted") and list_saved_steps(folder) else ""


def follow_advice(reporter: Reporter) -> Policy:
    """Return a policy that reports every evaluation, and pauses or prunes the run where the study says so."""

    def policy(event: Event) -> Decision:
        if not isinstance(event, EvalEnd):
            return None
        is_finite = math.isfinite(event.val_loss)
        advice = reporter.report_share(event.val_loss, event.fraction_done, can_pause=is_finite)
        if event.is_probe and not is_finite:  # which the run's own policies do not see
            return Stop("diverged", f"validation loss {event.val_loss} at step {event.step}")
        if advice == "continue":
            return None
        reason = f"validation loss {event.val_loss:.4g} after {event.fraction_done:.0%} of the run"
        return Stop("paused" if advice == "pause" else "pruned", reason)

    return policy


def stop_when(should_stop: Callable[[], bool]) -> Policy:
    """Return a policy that interrupts the run at the next evaluation but the last once `should_stop()` is true."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.fraction_done < 1 and should_stop():
            return Stop("interrupted", STOPPED)
        return None

    return policy
