"""Choose what a free worker does next: continue, start or promote a trial, or nothing."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from optuna.pruners import BasePruner
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.budget import Budget, fits_in_share
from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.promotion import Phase, Promotion, choose_promotion
from harness.sweep.study.rungs import FULL_RUN
from harness.sweep.study.trial_attrs import BASELINE, RETRY_OF, TARGET, is_cut_off, is_paused


@dataclass(frozen=True)
class Work:
    """A trial to run until the rung `target`, in percent: one that waits, or a new one if `waiting` is None."""

    target: int
    waiting: FrozenTrial | None = None
    promotion: Promotion | None = None


def choose_work(
    trials: Sequence[FrozenTrial],
    budget: Budget,
    pruner: BasePruner,
    sign: int,
    can_continue: Callable[[FrozenTrial], bool] = lambda trial: True,
) -> Work | None:
    """Return what to do next, None if nothing is left to do within the budget.

    Interrupted trials are continued first, then queued ones are started, a retry in the place of the trial that it
    repeats. Then the promotion that the ranks allow is made; if there is none, a new trial is started. When no new
    trial may start, or less than a whole run is left of the budget, the best paused trials are completed.

    Args:
        sign: -1 if the study maximizes, else 1.
        can_continue: Whether this machine has the checkpoint of a trial.
    """
    share_left = budget.find_share_left(trials)
    waiting = [trial for trial in trials if trial.state == TrialState.WAITING and not is_paused(trial)]
    for trial in sorted(waiting, key=_queue_order):
        target = _get_target(trial, pruner)
        is_here = not is_cut_off(trial) or can_continue(trial)
        if is_here and fits_in_share(trial, target, share_left):
            return Work(target, trial)
    has_share = fits_in_share(None, FULL_RUN, share_left)
    may_start = has_share and budget.may_create_trial(trials)
    if isinstance(pruner, PausingPruner):

        def may_continue(trial: FrozenTrial, target: int) -> bool:
            goal = target if may_start else FULL_RUN  # without new trials, what cannot be completed is of no use
            return can_continue(trial) and fits_in_share(trial, goal, share_left)

        without_new: Phase = "last" if math.isinf(share_left) else "relaxed" if has_share else "rest"
        phase: Phase = "search" if may_start else without_new
        promotion = choose_promotion(trials, pruner, sign, phase=phase, may_continue=may_continue)
        if promotion is not None:
            return Work(promotion.target, trials[promotion.number], promotion)
    return Work(_first_target(pruner)) if may_start else None


def _queue_order(trial: FrozenTrial) -> tuple[bool, int]:
    return not is_cut_off(trial), trial.user_attrs.get(RETRY_OF, trial.number)


def _get_target(trial: FrozenTrial, pruner: BasePruner) -> int:
    """Return the rung to which a waiting trial runs. The baseline, with which all compare, never pauses."""
    return FULL_RUN if BASELINE in trial.user_attrs else int(trial.user_attrs.get(TARGET) or _first_target(pruner))


def _first_target(pruner: BasePruner) -> int:
    return pruner.rungs[0] if isinstance(pruner, PausingPruner) else FULL_RUN
