"""The trials of a study, handed out one at a time, and what becomes of each."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import JournalStorage
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.budget import Budget
from harness.sweep.study.liveness import is_dead, this_process
from harness.sweep.study.pruning import to_rung
from harness.sweep.study.storage import study_lock
from harness.sweep.study.trial_attrs import (
    BASELINE,
    BUDGET,
    OUT_OF_SPACE_VALUES,
    RESULT,
    RETRIES,
    RETRY_OF,
    STOP_REQUESTED,
    WORKER,
)

WORKER_DIED = {"status": "failed", "reason": "its worker died"}
SWEEP_KILLED = {"status": "interrupted", "reason": "the sweep was killed"}


class TrialQueue:
    """Of one process. What changes who runs what happens in turn; the study is the only memory."""

    def __init__(
        self, study: Study, space: SearchSpace, folder: Path, extend: Callable[[Trial], None] = lambda trial: None
    ) -> None:
        self.study, self.space, self.folder, self._extend = study, space, folder, extend

    def hold_lock(self) -> AbstractContextManager[None]:
        return study_lock(self.study._storage, self.folder, self.study.study_name)

    def claim_trial(self) -> Trial | None:
        """A trial to run, with its parameters; None when the study has no more for anyone."""
        with self.hold_lock():
            if not self.has_more_trials():
                return None
            trial = self.study.ask()
            trial.set_user_attr(WORKER, this_process())
            if self._has_heartbeats:  # from now on, or a host that dies before the first is never missed
                self.study._storage.record_heartbeat(trial._trial_id)
            if OUT_OF_SPACE_VALUES not in trial.user_attrs:
                self.space.suggest_values(trial)
                self._extend(trial)
            return trial

    def has_more_trials(self) -> bool:
        """Whether there is a trial to be begun, as things stand."""
        limits, trials = self._read_budget_and_trials()
        if self.is_stopping() or not limits.has_trials_left(trials):
            return False
        return not (limits.describe_failures(trials) or limits.describe_exhaustion(trials, time.time()))

    def describe_end(self) -> tuple[str, str]:
        """What keeps trials from being begun: the failures, and the budget that is used up, each in words."""
        limits, trials = self._read_budget_and_trials()
        return (
            (limits.describe_failures(trials), limits.describe_exhaustion(trials, time.time()))
            if limits.has_trials_left(trials)
            else ("", "")
        )

    def finish_trial(self, trial: Trial, result: Mapping[str, Any], values: Sequence[float]) -> None:
        """End `trial` as its run ended; one that was interrupted is queued again, one that was given up stays so."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(RESULT, dict(result))
            self._tell_study(trial, result, values)

    def reap_dead_trials(self, *, is_leftover: bool, is_only_sweep: bool = False) -> list[int]:
        """End the trials whose process has died or, on another host, fallen silent; queue them again, and return their
        numbers.

        One that outlived a worker already is not tried a third time, unless they all died with their sweep. With
        `is_alone` no worker is left anywhere, which of other hosts only a database could know.
        """
        with self.hold_lock():
            silent = self._stale_trial_ids()
            dead = [
                trial
                for trial in self._running_trials()
                if is_only_sweep or _is_orphaned(trial) or trial._trial_id in silent
            ]
            for trial in dead:
                self._fail_trial(trial, is_leftover=is_leftover and trial._trial_id not in silent)
        return [trial.number for trial in dead]

    def has_heartbeat_trials(self) -> bool:
        """Whether trials are under way somewhere whose worker, should it die, will be missed."""
        return self._has_heartbeats and bool(self._running_trials())

    @property
    def is_journal(self) -> bool:
        return isinstance(self.study._storage, JournalStorage)

    def request_stop(self) -> None:
        """Ask every process of the study, wherever it is, to stop at the next evaluation."""
        if not self.is_stopping():
            self.study.set_user_attr(STOP_REQUESTED, True)

    def set_budget(self, limits: Budget) -> None:
        """Set how far to go from now on, for every process, and take back what was asked before."""
        self.study.set_user_attr(BUDGET, asdict(limits))
        if self.is_stopping():
            self.study.set_user_attr(STOP_REQUESTED, False)

    def is_stopping(self) -> bool:
        return bool(self.study.user_attrs.get(STOP_REQUESTED))

    def _read_budget_and_trials(self) -> tuple[Budget, list[FrozenTrial]]:
        return Budget(**self.study.user_attrs[BUDGET]), self.study.get_trials(deepcopy=False)

    def _tell_study(self, trial: Trial, result: Mapping[str, Any], values: Sequence[float]) -> None:
        match result["status"]:
            case "completed":
                self.study.tell(trial, list(values))
            case "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            case "diverged":
                if len(self.study.directions) == 1:
                    self._report_nan(trial, to_rung(result["share"]))
                trial.set_constraint("diverged", 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            case "interrupted":
                with self.hold_lock():
                    self.study.tell(trial, state=TrialState.FAIL)
                    self._requeue_trial(self.study.get_trials(deepcopy=False)[trial.number])
            case _:
                self.study.tell(trial, state=TrialState.FAIL)

    def _report_nan(self, trial: Trial, step: int) -> None:
        """As the last value, which Optuna ignores at a step that has one already."""
        last = self.study.get_trials(deepcopy=False)[trial.number].last_step
        trial.report(math.nan, step if last is None else max(step, last + 1))

    @property
    def _has_heartbeats(self) -> bool:
        return is_heartbeat_enabled(self.study._storage)

    def _stale_trial_ids(self) -> list[int]:
        """Ids of the trials of any host whose heartbeat has stopped."""
        return self.study._storage._get_stale_trial_ids(self.study._study_id) if self._has_heartbeats else []

    def _running_trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _fail_trial(self, trial: FrozenTrial, *, is_leftover: bool) -> None:
        storage = self.study._storage
        with suppress(UpdateFinishedTrialError):  # it was not dead after all
            storage.set_trial_user_attr(trial._trial_id, RESULT, SWEEP_KILLED if is_leftover else WORKER_DIED)
            storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            self._requeue_trial(trial, has_killed=not is_leftover)

    def _requeue_trial(self, trial: FrozenTrial, *, has_killed: bool = False) -> None:
        retries = trial.user_attrs.get(RETRIES, 0) + has_killed
        if retries > 1:
            return
        kept = {key: trial.user_attrs[key] for key in (BASELINE, OUT_OF_SPACE_VALUES) if key in trial.user_attrs}
        marks = {**kept, RETRY_OF: trial.user_attrs.get(RETRY_OF, trial.number), RETRIES: retries}
        queued = trial.system_attrs.get("fixed_params", {})  # what it was to have, had it lived to be given all of it
        self.study.enqueue_trial({**queued, **trial.params}, user_attrs=marks)


def _is_orphaned(trial: FrozenTrial) -> bool:
    """A trial that has no worker yet, seen in turn, never gets one."""
    return WORKER not in trial.user_attrs or is_dead(trial.user_attrs[WORKER])
