"""How far a study goes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.trial_attrs import RESULT, RETRY_OF

MIN_TRIALS_FOR_RATE = 4
"""Ended trials from which on a rate of failures is one."""


@dataclass(frozen=True)
class Budget:
    """`began_at`, when this command began, and `deadline` are in seconds since 1970; `max_tokens` counts all trials. A
    trial that is repeated is none of its own, and failures before this command are forgiven."""

    n_trials: int
    started_at: float = 0.0
    deadline: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    max_failures: int | None = None
    max_failure_rate: float | None = None

    def has_trials_left(self, trials: Sequence[FrozenTrial]) -> bool:
        """Whether there is a trial to be run again, or one that was never run."""
        counted = sum(RETRY_OF not in trial.user_attrs for trial in trials)
        return counted < self.n_trials or any(trial.state == TrialState.WAITING for trial in trials)

    def describe_failures(self, trials: Sequence[FrozenTrial]) -> str:
        """Why failures end the study, or nothing."""
        ended = [
            trial for trial in _finished_attempts(trials) if trial.datetime_complete.timestamp() >= self.started_at
        ]
        failed = [trial for trial in ended if trial.state == TrialState.FAIL]
        last = ended[-self.max_failures :] if self.max_failures else []
        if self.max_failures and len(last) == self.max_failures and all(t.state == TrialState.FAIL for t in last):
            reasons = "; ".join(f"trial {trial.number}: {_failure_reason(trial)}" for trial in last)
            return f"{self.max_failures} trials in a row failed ({reasons})"
        if (
            self.max_failure_rate is not None
            and len(ended) >= MIN_TRIALS_FOR_RATE
            and len(failed) > self.max_failure_rate * len(ended)
        ):
            return f"{len(failed)} of {len(ended)} trials failed, which is more than {self.max_failure_rate:.0%}"
        return ""

    def describe_exhaustion(self, trials: Sequence[FrozenTrial], now: float) -> str:
        """Which budget is used up, or nothing."""
        if self.deadline is not None and now >= self.deadline:
            return "its time is up"
        if self.max_tokens is not None and sum(_tokens_used(trial) for trial in trials) >= self.max_tokens:
            return f"{self.max_tokens} tokens are spent"
        if self.patience is not None and _trials_since_best(_finished_attempts(trials)) >= self.patience:
            return f"no better value in {self.patience} trials"
        return ""


def _finished_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """The last trial of each place, where that is over."""
    standing = {trial.user_attrs.get(RETRY_OF, trial.number): trial for trial in trials}
    return [trial for trial in standing.values() if trial.state.is_finished()]


def _failure_reason(trial: FrozenTrial) -> str:
    return trial.user_attrs.get(RESULT, {}).get("reason", "")


def _tokens_used(trial: FrozenTrial) -> int:
    return trial.user_attrs.get(RESULT, {}).get("tokens", 0)


def _trials_since_best(ended: Sequence[FrozenTrial]) -> int:
    values = [trial.value if trial.state == TrialState.COMPLETE else math.inf for trial in ended]
    return len(values) - 1 - values.index(min(values)) if values and min(values) < math.inf else 0
