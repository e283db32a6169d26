"""Hand out the trials of a study one at a time, and record how each ends."""

import math
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.core.errors import describe_exception, shorten_message
from harness.sweep.optuna_internals import (
    complete_trial,
    fail_trial,
    find_stale_trials,
    get_database_engine,
    get_enqueued_params,
    get_heartbeat_interval,
    record_heartbeat,
    return_to_waiting,
    start_new_trial,
    start_waiting_trial,
)
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.budget import Budget
from harness.sweep.study.liveness import is_dead, this_process
from harness.sweep.study.recorded_result import read_interrupted_result, read_recorded_result
from harness.sweep.study.rungs import to_rung
from harness.sweep.study.storage import STORAGE_ERRORS, study_lock
from harness.sweep.study.trial_attrs import (
    BASELINE,
    BUDGET,
    FIXED_VALUES,
    PROMOTIONS,
    REPEATED_ATTRS,
    RESULT,
    RETRIES,
    RETRY_OF,
    STOP_REQUESTED,
    STUDY_SPEC,
    TARGET,
    WORKER,
    TrialResult,
    has_checkpoint,
    read_trial_result,
    read_trial_worker,
)
from harness.sweep.study.work import Work, choose_work

MAX_WORKER_DEATHS = 2  # a trial that kills this many workers is not tried again
WORKER_DIED = {"status": "failed", "reason": "its worker died"}
SWEEP_KILLED = {"status": "interrupted", "reason": "the sweep was killed"}


class EndReasons(NamedTuple):
    """Reasons that keep further trials from starting; empty strings where there is none.

    `is_fixable` says that the failures have one cause, without which the same study can go on. `is_spent` says that the
    trials have used up the budget, not the time or the patience.
    """

    failures: str = ""
    exhausted_budget: str = ""
    is_fixable: bool = False
    is_spent: bool = False


class TrialQueue:
    """One process's access to a study.

    Everything that decides which process runs which trial happens under the study's lock, and is stored in the study.
    """

    def __init__(
        self, study: Study, space: SearchSpace, folder: Path, extend: Callable[[Trial], None] = lambda trial: None
    ) -> None:
        self.study, self.space, self.folder, self._extend = study, space, folder, extend

    def hold_lock(self) -> AbstractContextManager[None]:
        return study_lock(self.study, self.folder)

    def claim_trial(self) -> Trial | None:
        """Return a trial to run, with its params suggested, or None if the study has none left.

        Trials with values that cannot be used, which another program may enqueue, are ended as failed.
        """
        with self.hold_lock():
            while (work := self._find_work()) is not None:
                try:
                    trial = self._start(work)
                except STORAGE_ERRORS:
                    raise
                except Exception as error:  # of the sampler, which is asked as soon as the trial exists
                    if not self._fail_own_trials(error):
                        raise
                    continue
                if trial is None:
                    continue
                record_heartbeat(trial)  # already here, because a trial without any heartbeat never becomes stale
                try:
                    if FIXED_VALUES not in trial.user_attrs and not has_checkpoint(trial):
                        self.space.suggest_values(trial)
                        if BASELINE not in trial.user_attrs:  # the current config as it is
                            self._extend(trial)
                    return trial
                except STORAGE_ERRORS:
                    raise
                except Exception as error:  # of the sampler, or the user's function
                    self.finish_trial(trial, _describe_unset_params(error))
        return None

    def _start(self, work: Work) -> Trial | None:
        """Start a trial, and record the decision; None if another program has started it."""
        attrs: dict[str, Any] = {WORKER: this_process(), TARGET: work.target}
        if work.promotion is not None and work.waiting is not None:
            decision = {key: value for key, value in asdict(work.promotion).items() if key != "number"}
            attrs[PROMOTIONS] = [*work.waiting.user_attrs.get(PROMOTIONS, ()), decision]
        if work.waiting is None:
            return start_new_trial(self.study, attrs)
        return start_waiting_trial(self.study, work.waiting, attrs)

    def _can_continue(self, trial: FrozenTrial) -> bool:
        """Return whether the checkpoint of a trial is here, or was here; one that was deleted is started over."""
        worker, checkpoint = read_trial_worker(trial), read_trial_result(trial).get("checkpoint")
        is_here = worker is not None and worker["host"] == this_process()["host"]
        return is_here or (bool(checkpoint) and Path(str(checkpoint)).exists())

    def _fail_own_trials(self, error: Exception) -> bool:
        """Fail the trial that this process could not start, and return whether there is one."""
        own = [trial for trial, worker in self._running_trials() if worker == this_process()]
        for trial in own:
            fail_trial(self.study, trial, {RESULT: asdict(_describe_unset_params(error))})
        return bool(own)

    def has_more_trials(self) -> bool:
        """Return whether another trial may be started or continued now."""
        return self._find_work() is not None

    def _find_work(self) -> Work | None:
        budget, trials = self._read_budget_and_trials()
        if self.is_stopping() or budget.describe_failures(trials) or self._describe_exhaustion(budget, trials):
            return None
        return self._choose_work(budget, trials)

    def _choose_work(self, budget: Budget, trials: Sequence[FrozenTrial]) -> Work | None:
        sign = -1 if self._is_maximized else 1
        return choose_work(trials, budget, self.study.pruner, sign, self._can_continue)

    def find_end_reasons(self) -> EndReasons:
        """Return what keeps further trials from starting."""
        budget, trials = self._read_budget_and_trials()
        if self._choose_work(budget, trials) is None:
            spent = budget.describe_spent_share(trials)
            return EndReasons(budget.describe_failure_rate(trials), spent, is_spent=bool(spent))
        exhausted = self._describe_exhaustion(budget, trials)
        return EndReasons(budget.describe_failures(trials), exhausted, bool(budget.describe_fatal_failures(trials)))

    def finish_trial(self, trial: Trial, result: TrialResult) -> None:
        """End a trial as its run ended, or let it wait if it is paused.

        Interrupted trials wait to be continued, or are queued again if they have no checkpoint. A trial that was ended
        in the meantime, as dead, is left as it is.
        """
        if result.status == "interrupted" and not result.checkpoint and has_checkpoint(trial):
            earlier = TrialResult(**read_trial_result(trial))  # what was done before can still be continued
            result = replace(earlier, status="interrupted", reason=result.reason)
        result = replace(result, reason=shorten_message(result.reason))
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(RESULT, asdict(result))
            self._tell_study(trial, result)

    def reap_dead_trials(self, *, is_leftover: bool, is_only_sweep: bool = False) -> list[int]:
        """End the trials whose process died or stopped sending heartbeats, and return their numbers.

        A trial whose run has completed, according to its record, is completed. One that was paused before is to be
        continued from there, and the others are queued again.

        Args:
            is_leftover: The workers were killed together with their sweep, so their trials are not to blame.
            is_only_sweep: No other sweep serves the study, so every running trial is dead, on other hosts too.
        """
        with self.hold_lock():
            stale = find_stale_trials(self.study)
            dead = [
                trial
                for trial, worker in self._running_trials()
                if is_only_sweep or is_dead(worker) or trial.number in stale
            ]
            for trial in dead:
                was_killed = is_leftover and trial.number not in stale
                with suppress(UpdateFinishedTrialError):  # its worker was alive after all and ended it
                    if self._complete_from_record(trial) or self._let_wait(trial, has_killed=not was_killed):
                        continue
                    fail_trial(self.study, trial, {RESULT: SWEEP_KILLED if was_killed else WORKER_DIED})
                    self.requeue_trial(trial, has_killed=not was_killed)
        return [trial.number for trial in dead]

    def has_heartbeat_trials(self) -> bool:
        """Return whether trials are running, anywhere, whose death the storage would notice."""
        return get_heartbeat_interval(self.study) is not None and bool(self._running_trials())

    @property
    def is_journal(self) -> bool:
        return get_database_engine(self.study) is None

    def request_stop(self) -> None:
        """Ask every process of the study, on any host, to stop at its next evaluation."""
        if not self.is_stopping():
            self.study.set_user_attr(STOP_REQUESTED, True)

    def set_budget(self, budget: Budget) -> None:
        """Set the budget for all processes, and withdraw an earlier request to stop."""
        self.study.set_user_attr(BUDGET, asdict(budget))
        if self.is_stopping():
            self.study.set_user_attr(STOP_REQUESTED, False)

    def is_stopping(self) -> bool:
        return bool(self.study.user_attrs.get(STOP_REQUESTED))

    def _read_budget_and_trials(self) -> tuple[Budget, list[FrozenTrial]]:
        return Budget(**self.study.user_attrs[BUDGET]), self.study.get_trials(deepcopy=False)

    def _describe_exhaustion(self, budget: Budget, trials: Sequence[FrozenTrial]) -> str:
        return budget.describe_exhaustion(trials, time.time(), is_maximized=self._is_maximized)

    @property
    def _is_maximized(self) -> bool:
        return self.study.directions == [StudyDirection.MAXIMIZE]

    def _tell_study(self, trial: Trial, result: TrialResult) -> None:
        match result.status:
            case "completed":
                self.study.tell(trial, list(result.values))
            case "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            case "diverged":
                if len(self.study.directions) == 1:
                    self._report_nan(trial, to_rung(result.fraction_done))
                trial.set_constraint("diverged", 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            case "paused":
                with self.hold_lock():
                    return_to_waiting(self.study, trial, {})
            case "interrupted" if result.checkpoint:
                with self.hold_lock():
                    return_to_waiting(self.study, trial, {})
            case "interrupted":
                with self.hold_lock():
                    self.study.tell(trial, state=TrialState.FAIL)
                    self.requeue_trial(self.study.get_trials(deepcopy=False)[trial.number])
            case _:
                self.study.tell(trial, state=TrialState.FAIL)

    def _report_nan(self, trial: Trial, step: int) -> None:
        """Report NaN as the last value. Optuna ignores a second value at the same step, so use a later one."""
        last = self.study.get_trials(deepcopy=False)[trial.number].last_step
        trial.report(math.nan, step if last is None else max(step, last + 1))

    def _let_wait(self, trial: FrozenTrial, *, has_killed: bool) -> bool:
        """Let a trial that has a checkpoint wait to be continued, unless it has killed too many workers."""
        deaths = trial.user_attrs.get(RETRIES, 0) + has_killed
        reached = read_interrupted_result(self.folder / str(trial.number))
        if deaths >= MAX_WORKER_DEATHS or not (reached or has_checkpoint(trial)):
            return False
        return_to_waiting(self.study, trial, {RETRIES: deaths, **({RESULT: asdict(reached)} if reached else {})})
        return True

    def _complete_from_record(self, trial: FrozenTrial) -> bool:
        """Complete a trial that was killed after its run had completed, and return whether it was."""
        objectives = self.study.user_attrs[STUDY_SPEC]["objectives"]
        result = read_recorded_result(self.folder / str(trial.number), objectives)
        if result is None:
            return False
        complete_trial(self.study, trial, {RESULT: asdict(result)}, result.values)
        return True

    def _running_trials(self) -> list[tuple[FrozenTrial, Mapping[str, Any]]]:
        """Return the running trials that this program started, each with the process that runs it."""
        running = self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return [(trial, worker) for trial in running if (worker := read_trial_worker(trial)) is not None]

    def requeue_trial(self, trial: FrozenTrial, *, has_killed: bool = False) -> None:
        """Queue another attempt at a trial, unless it has killed too many workers."""
        retries = trial.user_attrs.get(RETRIES, 0) + has_killed
        if retries >= MAX_WORKER_DEATHS:
            return
        kept = {key: trial.user_attrs[key] for key in REPEATED_ATTRS if key in trial.user_attrs}
        attrs = {**kept, RETRY_OF: trial.user_attrs.get(RETRY_OF, trial.number), RETRIES: retries}
        # A worker may die before it has suggested all params, so those that were enqueued are repeated too.
        self.study.enqueue_trial({**get_enqueued_params(trial), **trial.params}, user_attrs=attrs)


def _describe_unset_params(error: Exception) -> TrialResult:
    """Return the result of a trial whose params could not be set, and print the traceback to the worker's log."""
    print("".join(traceback.format_exception(error)), file=sys.stderr)
    reason = str(error) if isinstance(error, TypeError | ValueError) else describe_exception(error)
    return TrialResult("failed", shorten_message(f"its params cannot be set: {reason}"))
