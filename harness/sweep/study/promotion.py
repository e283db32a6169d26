"""Choose which paused trial is continued. Ranks decide, as in asynchronous successive halving
(https://arxiv.org/abs/1810.05934); a model that also decides promotions fails where early values mislead it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.rungs import FULL_RUN, list_rung_costs
from harness.sweep.study.trial_attrs import PROMOTIONS, is_own_trial, is_paused

Reason = Literal["rank", "exploration", "last"]
Phase = Literal["search", "last", "rest"]
"""`search` starts new trials; in `last` their number is reached, in `rest` less than a run of the budget is left."""


@dataclass(frozen=True)
class Promotion:
    """A paused trial to continue from the rung `start` to `target`, both in percent.

    The reason is its rank, exploration of a trial that is not among the best, or that no new trials are started.
    """

    number: int
    start: int
    target: int
    reason: Reason


@dataclass(frozen=True)
class _Rung:
    """The trials that have reached a rung, best first, and those of them that are paused there."""

    rung: int
    target: int
    ranked: Sequence[int]
    paused: frozenset[int]

    def promote(self, numbers: Sequence[int], reason: Reason) -> Promotion | None:
        """Return the promotion of the first of these trials that is paused here."""
        number = next((number for number in numbers if number in self.paused), None)
        return None if number is None else Promotion(number, self.rung, self.target, reason)


def choose_promotion(
    trials: Sequence[FrozenTrial],
    pruner: PausingPruner,
    sign: int,
    *,
    phase: Phase = "search",
    may_continue: Callable[[FrozenTrial, int], bool] = lambda trial, target: True,
) -> Promotion | None:
    """Return the promotion that the ranks allow, of the highest rung first, or None.

    One of every `reduction_factor` trials at a rung is promoted, the best, whenever that changes. When no new trials
    are started, their number is rounded up, or it is not limited, to complete as many as the rest of the budget allows.

    Args:
        sign: -1 if the study maximizes, else 1.
        may_continue: Whether a trial may be continued to a rung: it is within the budget, and on this machine.
    """
    rungs = _rank_trials(trials, pruner, sign, may_continue)
    n_promotions = sum(len(trial.user_attrs.get(PROMOTIONS, ())) for trial in trials)
    if pruner.explore_every and n_promotions % pruner.explore_every == pruner.explore_every - 1 and phase == "search":
        for rung in rungs:  # the lowest first, where most trials are left behind
            n_best = len(rung.ranked) // pruner.reduction_factor
            if promotion := rung.promote(rung.ranked[n_best : 2 * n_best], "exploration"):
                return promotion
    for rung in reversed(rungs):
        n_reached = len(rung.ranked)
        n_best = {
            "search": n_reached // pruner.reduction_factor,
            "last": math.ceil(n_reached / pruner.reduction_factor),
            "rest": n_reached,
        }[phase]
        if promotion := rung.promote(rung.ranked[:n_best], "rank" if phase == "search" else "last"):
            return promotion
    return None


def _rank_trials(
    trials: Sequence[FrozenTrial], pruner: PausingPruner, sign: int, may_continue: Callable[[FrozenTrial, int], bool]
) -> list[_Rung]:
    costs: dict[int, list[float]] = {}
    for trial in trials:
        if is_own_trial(trial) and trial.state != TrialState.FAIL:
            costs[trial.number] = list_rung_costs(trial, pruner.rungs, sign)
    found = []
    for index, (rung, target) in enumerate(pairwise((*pruner.rungs, FULL_RUN))):
        reached = [number for number, own in costs.items() if len(own) > index]
        paused = {
            trial.number
            for trial in trials
            if is_paused(trial)
            and len(costs[trial.number]) == index + 1
            and costs[trial.number][index] < math.inf
            and may_continue(trial, target)
        }
        ranked = sorted(reached, key=lambda number: (_rank_key(trials[number], costs[number][index]), number))
        found.append(_Rung(rung, target, ranked, frozenset(paused)))
    return found


def _rank_key(trial: FrozenTrial, cost: float) -> float:
    """Return the cost by which a trial is ranked; one that diverged later is no better than the others."""
    return math.inf if trial.constraints.get("diverged", 0) > 0 else cost
