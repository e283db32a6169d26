"""The trials of a study, handed out one at a time, and what becomes of each."""

import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._heartbeat import is_heartbeat_enabled
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from harness.sweeping.marks import BASELINE, IS_OUTSIDE, LIMITS, RESULT, RETRIES, RETRY_OF, STOP, WORKER
from harness.sweeping.pruning import percent
from harness.sweeping.space import Space
from harness.sweeping.storage import turn


@dataclass(frozen=True)
class Limits:
    """How far a study goes. `deadline` is in seconds since 1970, `max_tokens` counts all trials; a retry is no trial
    of its own."""

    n_trials: int
    deadline: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    max_failures: int | None = None
    max_failure_rate: float | None = None

    def reached(self, trials: Sequence[FrozenTrial], now: float) -> str:
        """Why no trial may be begun any more, or nothing."""
        standing = {trial.user_attrs.get(RETRY_OF, trial.number): trial for trial in trials}  # the last of each place
        ended = [trial for trial in standing.values() if trial.state.is_finished()]
        failed = [trial for trial in ended if trial.state == TrialState.FAIL]
        last = ended[-self.max_failures :] if self.max_failures else []
        if self.max_failures and len(last) == self.max_failures and all(t.state == TrialState.FAIL for t in last):
            reasons = "; ".join(f"trial {trial.number}: {reason(trial)}" for trial in last)
            return f"{self.max_failures} trials in a row failed ({reasons})"
        if self.max_failure_rate is not None and ended and len(failed) > self.max_failure_rate * len(ended):
            return f"{len(failed)} of {len(ended)} trials failed, which is more than {self.max_failure_rate:.0%}"
        if self.deadline is not None and now >= self.deadline:
            return "its time is up"
        if self.max_tokens is not None and sum(tokens(trial) for trial in trials) >= self.max_tokens:
            return f"{self.max_tokens} tokens are spent"
        if self.patience is not None and _trials_since_best(ended) >= self.patience:
            return f"no better value in {self.patience} trials"
        return ""


class Queue:
    """Of one process. What changes who runs what happens in turn; the study is the only memory."""

    def __init__(
        self, study: Study, space: Space, folder: Path, extend: Callable[[Trial], None] = lambda trial: None
    ) -> None:
        self.study, self.space, self.folder, self._extend = study, space, folder, extend

    def turn(self) -> AbstractContextManager[None]:
        return turn(self.study._storage, self.folder, self.study.study_name)

    def claim(self) -> Trial | None:
        """A trial to run, with its parameters; None when the study has no more for anyone."""
        with self.turn():
            if not self.has_more():
                return None
            trial = self.study.ask()
            trial.set_user_attr(WORKER, this_process())
            if self._has_heartbeats:  # from now on, or a host that dies before the first is never missed
                self.study._storage.record_heartbeat(trial._trial_id)
            if IS_OUTSIDE not in trial.user_attrs:
                self.space.suggest(trial)
                self._extend(trial)
            return trial

    def has_more(self) -> bool:
        """Whether there is a trial to be begun, as things stand."""
        limits = Limits(**self.study.user_attrs[LIMITS])
        trials = self.study.get_trials(deepcopy=False)
        is_over = self.is_stopping() or limits.reached(trials, time.time())
        return not is_over and _is_open(trials, limits.n_trials)

    def tell(self, trial: Trial, result: Mapping[str, Any], values: Sequence[float]) -> None:
        """End `trial` as its run ended; one that was interrupted is queued again, one that was given up stays so."""
        with suppress(UpdateFinishedTrialError):
            trial.set_user_attr(RESULT, dict(result))
            self._end(trial, result, values)

    def _end(self, trial: Trial, result: Mapping[str, Any], values: Sequence[float]) -> None:
        match result["status"]:
            case "completed":
                self.study.tell(trial, list(values))
            case "pruned":
                self.study.tell(trial, state=TrialState.PRUNED)
            case "diverged":
                if len(self.study.directions) == 1:
                    trial.report(math.nan, percent(result["share"]))
                trial.set_constraint("diverged", 1.0)
                self.study.tell(trial, state=TrialState.PRUNED)
            case "interrupted":
                with self.turn():
                    self.study.tell(trial, state=TrialState.FAIL)
                    self._repeat(self.study.trials[trial.number])
            case _:
                self.study.tell(trial, state=TrialState.FAIL)

    def reap(self, *, is_leftover: bool) -> list[int]:
        """End the trials whose process has died or, on another host, fallen silent; queue them again, and return their
        numbers.

        One that outlived a worker already is not tried a third time, unless they all died with their sweep.
        """
        with self.turn():
            silent = self._silent()
            dead = [trial for trial in self._running() if _is_lost(trial) or trial._trial_id in silent]
            for trial in dead:
                self._fail(trial, is_leftover=is_leftover and trial._trial_id not in silent)
        return [trial.number for trial in dead]

    def is_served(self) -> bool:
        """Whether trials are under way somewhere whose worker, should it die, will be missed."""
        return self._has_heartbeats and bool(self._running())

    @property
    def _has_heartbeats(self) -> bool:
        return is_heartbeat_enabled(self.study._storage)

    def _silent(self) -> list[int]:
        """Ids of the trials of any host whose heartbeat has stopped."""
        return self.study._storage._get_stale_trial_ids(self.study._study_id) if self._has_heartbeats else []

    def stop(self, is_asked: bool) -> None:
        """Ask every process of the study, wherever it is, to stop at the next evaluation; or take that back."""
        if self.is_stopping() != is_asked:
            self.study.set_user_attr(STOP, is_asked)

    def is_stopping(self) -> bool:
        return bool(self.study.user_attrs.get(STOP))

    def limit(self, limits: Limits) -> None:
        """Set how far to go from now on, for every process."""
        self.study.set_user_attr(LIMITS, asdict(limits))

    def _running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _fail(self, trial: FrozenTrial, *, is_leftover: bool) -> None:
        with suppress(UpdateFinishedTrialError):  # it was not dead after all
            self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            self._repeat(trial, has_killed=not is_leftover)

    def _repeat(self, trial: FrozenTrial, *, has_killed: bool = False) -> None:
        retries = trial.user_attrs.get(RETRIES, 0) + has_killed
        if retries > 1:
            return
        kept = {key: trial.user_attrs[key] for key in (BASELINE, IS_OUTSIDE) if key in trial.user_attrs}
        marks = {**kept, RETRY_OF: trial.user_attrs.get(RETRY_OF, trial.number), RETRIES: retries}
        self.study.enqueue_trial(trial.params, user_attrs=marks)


def this_process() -> dict[str, Any]:
    """What tells this process from all others, also from a later one of the same number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started_at": psutil.Process().create_time()}


def reason(trial: FrozenTrial) -> str:
    """Why a trial ended as it did."""
    return trial.user_attrs.get(RESULT, {}).get("reason") or ("" if trial.state.is_finished() else "under way")


def tokens(trial: FrozenTrial) -> int:
    return trial.user_attrs.get(RESULT, {}).get("tokens", 0)


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process of this host has ended; of other hosts' it cannot be known."""
    if process["host"] != socket.gethostname():
        return False
    try:
        found = psutil.Process(process["pid"])
        is_another = abs(found.create_time() - process["started_at"]) > 1  # seconds
        return is_another or found.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _is_lost(trial: FrozenTrial) -> bool:
    """A trial that has no worker yet, seen in turn, never gets one."""
    return WORKER not in trial.user_attrs or is_dead(trial.user_attrs[WORKER])


def _is_open(trials: Sequence[FrozenTrial], n_trials: int) -> bool:
    """Whether there is a trial to be run again, or one that was never run."""
    waiting = next((trial for trial in trials if trial.state == TrialState.WAITING), None)
    counted = sum(RETRY_OF not in trial.user_attrs for trial in trials)
    return waiting is not None or counted < n_trials


def _trials_since_best(ended: Sequence[FrozenTrial]) -> int:
    values = [trial.value if trial.state == TrialState.COMPLETE else math.inf for trial in ended]
    return len(values) - 1 - values.index(min(values)) if values and min(values) < math.inf else 0
