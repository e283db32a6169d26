"""Estimate how long the rest of a sweep takes."""

import time
from collections.abc import Sequence

from harness.sweep.results.summary import TrialSummary, sum_shares
from harness.sweep.study.budget import Budget
from harness.sweep.study.rungs import FULL_RUN


def estimate_seconds_left(trials: Sequence[TrialSummary], budget: Budget, n_jobs: int) -> float | None:
    """Estimate the time left from the time that trials have taken, or from the progress of the first ones.

    With a budget in runs or tokens, all of it is taken to be used. None before a trial has been evaluated.
    """
    measured = [trial for trial in trials if trial.seconds and trial.status not in ("added", "running")]
    seconds = sum(trial.seconds or 0.0 for trial in measured)
    shares = sum(trial.share_done for trial in measured)
    seconds_per_run = seconds / shares if shares else _extrapolate(trials)
    running = [max(0, trial.target - trial.percent_done) / FULL_RUN for trial in trials if trial.status == "running"]
    if budget.runs is not None or budget.max_tokens is not None:
        left = _find_runs_left(trials, budget)
        return None if seconds_per_run is None or left is None else seconds_per_run * max(left / n_jobs, *running, 0.0)
    per_trial = seconds / len(measured) if measured else seconds_per_run
    if per_trial is None:
        return None
    n_new = max(0, budget.n_trials - sum(trial.retry_of is None and trial.status != "added" for trial in trials))
    n_queued = sum(trial.status == "queued" for trial in trials)
    return per_trial * max((n_new + n_queued + sum(running)) / n_jobs, *running, 0.0)


def _extrapolate(trials: Sequence[TrialSummary]) -> float | None:
    """Return the mean time of a whole run by the progress of the trials that are running for the first time."""
    now = time.time()
    found = [
        (now - trial.started_at) * FULL_RUN / trial.percent_done
        for trial in trials
        if trial.status == "running" and not trial.promotions and trial.started_at and trial.percent_done
    ]
    return sum(found) / len(found) if found else None


def _find_runs_left(trials: Sequence[TrialSummary], budget: Budget) -> float | None:
    """Return how many runs are left of the budget; None if the tokens of a run are not known yet."""
    left = [] if budget.runs is None else [budget.runs - sum_shares(trials)]
    counted = [trial for trial in trials if trial.tokens and trial.share_done and trial.status != "running"]
    if budget.max_tokens is not None and counted:
        tokens, shares = sum(trial.tokens for trial in counted), sum(trial.share_done for trial in counted)
        left.append(budget.max_tokens * shares / tokens - sum_shares(trials))
    return max(0.0, min(left)) if left else None
