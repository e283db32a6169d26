"""When a study ends: trials, runs, tokens, time, patience and failures."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.rungs import FULL_RUN
from harness.sweep.study.trial_attrs import RETRY_OF, TARGET, has_result, is_own_trial, read_trial_result

MIN_TRIALS_FOR_RATE = 4  # finished trials before a failure rate is computed
EPSILON = 1e-9  # of a run, for sums of shares


@dataclass(frozen=True)
class Budget:
    """Limits of a study.

    `started_at`, when this command started, and `deadline` are in seconds since the epoch. `runs` is the sum of the
    shares of a run that all trials do, and `max_tokens` that of their tokens; `run_tokens` are those of one run, if
    they are known before any trial has ended. Retries do not count towards `n_trials`, nor failures from before
    `started_at` towards the limits on those. Trials that another program has run count towards nothing.
    """

    n_trials: int
    runs: float | None = None
    started_at: float = 0.0
    deadline: float | None = None
    max_tokens: int | None = None
    run_tokens: int | None = None
    patience: int | None = None
    max_failures: int | None = None
    max_failure_rate: float | None = None

    def may_create_trial(self, trials: Sequence[FrozenTrial]) -> bool:
        """Return whether the number of trials allows another one."""
        return sum(RETRY_OF not in trial.user_attrs and is_own_trial(trial) for trial in trials) < self.n_trials

    def count_runs(self) -> float:
        """Return how many whole runs all trials add up to at most."""
        by_tokens = self.max_tokens / self.run_tokens if self.max_tokens is not None and self.run_tokens else math.inf
        return min(self.n_trials, math.inf if self.runs is None else self.runs, by_tokens)

    def find_share_left(self, trials: Sequence[FrozenTrial]) -> float:
        """Return how many runs may still be done, as a sum of shares of a run; infinity without a limit.

        What running trials may still do is counted as done.
        """
        own = [trial for trial in trials if is_own_trial(trial)]
        limits = [] if self.runs is None else [self.runs - sum(map(_find_reserved_share, own))]
        if self.max_tokens is not None:
            limits.append(self._find_token_share_left(own, self.max_tokens))
        return min(limits, default=math.inf)

    def _find_token_share_left(self, own: Sequence[FrozenTrial], max_tokens: int) -> float:
        tokens = [read_trial_result(trial).get("tokens", 0) for trial in own]
        counted = [_find_counted_share(trial) for trial in own]
        rates = [spent / share for spent, share in zip(tokens, counted, strict=True) if spent and share]
        left = max_tokens - sum(tokens)
        run_tokens = max(rates, default=self.run_tokens)
        if run_tokens is None:
            return math.inf if left > 0 else 0.0
        return left / run_tokens - (sum(map(_find_reserved_share, own)) - sum(counted))

    def describe_failures(self, trials: Sequence[FrozenTrial]) -> str:
        """Return why failures end the study, or an empty string."""
        if fatal := self.describe_fatal_failures(trials):
            return fatal
        ended = self._list_ended(trials)
        last = ended[-self.max_failures :] if self.max_failures else []
        if self.max_failures and len(last) == self.max_failures and all(t.state == TrialState.FAIL for t in last):
            return f"{self.max_failures} trials in a row failed ({_format_reasons(last)})"
        return self.describe_failure_rate(trials)

    def describe_fatal_failures(self, trials: Sequence[FrozenTrial]) -> str:
        """Return why all other trials would fail too, or an empty string."""
        fatal = [trial for trial in self._list_ended(trials) if read_trial_result(trial).get("ends_sweep")]
        return _format_reasons(fatal) if fatal and not any(map(has_result, trials)) else ""

    def describe_failure_rate(self, trials: Sequence[FrozenTrial]) -> str:
        """Return that too large a share of the trials has failed, or an empty string.

        A few trials say little about their share, unless it would be too large even if all others succeeded.
        """
        ended = self._list_ended(trials)
        failed = [trial for trial in ended if trial.state == TrialState.FAIL]
        if self.max_failure_rate is None or len(failed) <= self.max_failure_rate * len(ended):
            return ""
        if len(ended) < MIN_TRIALS_FOR_RATE and len(failed) <= self.max_failure_rate * self.n_trials:
            return ""
        share = f"{len(failed)} of {len(ended)} trials failed, more than {self.max_failure_rate:.0%}"
        return f"{share} ({_format_reasons(failed[-1:])})"

    def _list_ended(self, trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
        return [trial for trial in _finished_attempts(trials) if _end_time(trial) >= self.started_at]

    def describe_exhaustion(self, trials: Sequence[FrozenTrial], now: float, *, is_maximized: bool = False) -> str:
        """Return that the time or the patience is used up, or an empty string."""
        if self.deadline is not None and now >= self.deadline:
            return "the time budget is used up"
        if self.patience is not None and _trials_since_best(_finished_attempts(trials), is_maximized) >= self.patience:
            return f"no better value in {self.patience} trials"
        return ""

    def describe_size(self) -> str:
        """Return the limits of the whole study in words."""
        limits = [] if self.runs is None else [f"{self.runs:g} runs"]
        limits += [] if self.max_tokens is None else [f"{self.max_tokens:,} tokens"]
        return f"{' and '.join(limits)} in up to {self.n_trials} trials" if limits else f"{self.n_trials} trials"

    def name_limit(self) -> str:
        """Return the option that limits the whole study."""
        if self.runs is not None:
            return "sweep.runs"
        return "sweep.n_trials" if self.max_tokens is None else "sweep.max_tokens"

    def describe_spent_share(self, trials: Sequence[FrozenTrial]) -> str:
        """Return that less is left than another run takes, or an empty string."""
        if fits_in_share(None, FULL_RUN, self.find_share_left(trials)):
            return ""
        limit = f"{self.max_tokens} tokens" if self.runs is None else f"{self.runs:g} runs"
        return f"the budget of {limit} is used up"


def find_share_done(trial: FrozenTrial) -> float:
    """Return the share of its run that a trial has done when it last ended or paused, or reported, from 0 to 1."""
    recorded = read_trial_result(trial).get("fraction_done")
    if trial.state == TrialState.COMPLETE and not recorded:
        return 1.0
    return max(recorded or 0.0, (trial.last_step or 0) / FULL_RUN if is_own_trial(trial) else 0.0)


def fits_in_share(trial: FrozenTrial | None, target: int, share_left: float) -> bool:
    """Return whether a trial, new if it is None, can run to the rung `target` within the share that is left."""
    share_done = 0.0 if trial is None else find_share_done(trial)
    return target / FULL_RUN - share_done <= share_left + EPSILON


def _find_reserved_share(trial: FrozenTrial) -> float:
    share = find_share_done(trial)
    return max(share, trial.user_attrs.get(TARGET, FULL_RUN) / FULL_RUN) if trial.state == TrialState.RUNNING else share


def _find_counted_share(trial: FrozenTrial) -> float:
    """Return the share of its run that the recorded tokens of a trial stand for."""
    result = read_trial_result(trial)
    if not result.get("tokens"):
        return 0.0
    return float(result.get("fraction_done") or 0.0) if trial.state == TrialState.RUNNING else find_share_done(trial)


def _finished_attempts(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return the last attempt at each trial, where it has finished, in the order of their ends."""
    last_attempts = {trial.user_attrs.get(RETRY_OF, trial.number): trial for trial in trials if is_own_trial(trial)}
    return sorted((trial for trial in last_attempts.values() if trial.state.is_finished()), key=_end_time)


def group_by_reason(reasons: Mapping[int, str]) -> dict[str, str]:
    """Return which trials, as in "trials 1, 2", have each reason, given the reason of each trial by its number."""
    numbers: dict[str, list[int]] = {}
    for number, reason in reasons.items():
        numbers.setdefault(reason, []).append(number)
    return {reason: f"trial{'s' * (len(own) > 1)} {', '.join(map(str, own))}" for reason, own in numbers.items()}


def _format_reasons(failed: Sequence[FrozenTrial]) -> str:
    groups = group_by_reason({trial.number: read_trial_result(trial).get("reason", "") for trial in failed})
    return "; ".join(f"{trials}: {reason}" for reason, trials in groups.items())


def _end_time(trial: FrozenTrial) -> float:
    return trial.datetime_complete.timestamp() if trial.datetime_complete else 0.0


def _trials_since_best(ended: Sequence[FrozenTrial], is_maximized: bool) -> int:
    sign = -1 if is_maximized else 1
    costs = [
        math.inf if trial.value is None or trial.state != TrialState.COMPLETE else sign * trial.value for trial in ended
    ]
    best = min(costs, default=math.inf)
    return len(costs) - 1 - costs.index(best) if best < math.inf else 0
