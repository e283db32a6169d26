"""Choose which paused trial is continued. Ranks decide most promotions, as in asynchronous successive halving
(https://arxiv.org/abs/1810.05934), and values projected to the end of the run some: ranks fail where early values
mislead, and a model fails where it is wrong. In conditional spaces some go to options that neither favors."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.projection import project_trials
from harness.sweep.study.rungs import FULL_RUN, list_rung_costs
from harness.sweep.study.trial_attrs import PROMOTIONS, is_own_trial, is_paused

Reason = Literal["rank", "projection", "coverage", "last"]
Phase = Literal["search", "last", "relaxed", "rest"]
"""In `search` new trials are started. In `last` and `relaxed` their number is reached: in `relaxed` some of a budget is
left, in `last` there is no budget, and the reduction factor limits promotions. In `rest` less than a run is left."""


@dataclass(frozen=True)
class Promotion:
    """A paused trial to continue from the rung `start` to `target`, both in percent.

    The reason is its rank, its projected value, that its option has no completed trial, or that no new trials are
    started.
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
    """Return the next promotion, of the highest rung first, or None.

    One of every `reduction_factor` trials at a rung is promoted, the best, whenever that changes. One of every
    `project_every` promotions goes to the best trial by projected value instead. In a conditional space another one
    goes to the least advanced option, until each has a completed trial; trials with the same keys are of one option,
    such as an optimizer. When no new trials are started, the number at each rung is rounded up, or it is not limited,
    to complete as many as the rest of the budget allows.

    Args:
        sign: -1 if the study maximizes, else 1.
        may_continue: Whether a trial may be continued to a rung: it is within the budget, and on this machine.
    """
    rungs = _rank_trials(trials, pruner, sign, may_continue)
    if phase == "search" and (promotion := _promote_in_turn(trials, rungs, pruner, sign)):
        return promotion
    if phase == "relaxed":
        return _promote_balanced(rungs)
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


def _promote_in_turn(
    trials: Sequence[FrozenTrial], rungs: Sequence[_Rung], pruner: PausingPruner, sign: int
) -> Promotion | None:
    """Return the promotion that does not go by the ranks, if it is its turn."""
    if pruner.project_every is None:
        return None
    n_promotions = sum(len(trial.user_attrs.get(PROMOTIONS, ())) for trial in trials)
    turn, promotion = n_promotions % pruner.project_every, None
    if turn == pruner.project_every // 2:
        promotion = _promote_least_advanced(trials, rungs)
    if promotion is None and turn == pruner.project_every - 1:
        promotion = _promote_projected(trials, rungs, pruner, sign)
    return promotion


def _promote_least_advanced(trials: Sequence[FrozenTrial], rungs: Sequence[_Rung]) -> Promotion | None:
    """Return the promotion of the best trial at the furthest rung of the least advanced option.

    Losses of different options early in a run say little of the order of the final ones. Options that have a completed
    trial, only one trial, or whose best trial is running, are left out.
    """
    options: dict[frozenset[str], list[FrozenTrial]] = {}
    for trial in trials:
        if is_own_trial(trial) and trial.params and trial.state != TrialState.FAIL:
            options.setdefault(frozenset(trial.params), []).append(trial)
    found = []
    for option in options.values() if len(options) > 1 else ():
        is_complete = any(trial.state == TrialState.COMPLETE for trial in option)
        if len(option) > 1 and not is_complete:
            running = {trial.number for trial in option if trial.state == TrialState.RUNNING}
            if promotion := _promote_furthest({trial.number for trial in option}, running, rungs):
                found.append(promotion)
    return min(found, key=lambda promotion: (promotion.start, promotion.number), default=None)


def _promote_furthest(numbers: set[int], running: set[int], rungs: Sequence[_Rung]) -> Promotion | None:
    """Return the promotion of the best of these trials at the furthest rung of any that can go on; None if it runs."""
    for rung in reversed(rungs):
        best = next((one for one in rung.ranked if one in numbers and one in rung.paused | running), None)
        if best is not None:
            return rung.promote([best], "coverage")
    return None


def _promote_projected(
    trials: Sequence[FrozenTrial], rungs: Sequence[_Rung], pruner: PausingPruner, sign: int
) -> Promotion | None:
    """Return the promotion of the best by projected value, if it is among the share that would reach the second rung
    by the ranks."""
    costs = project_trials(trials, StudyDirection.MAXIMIZE if sign < 0 else StudyDirection.MINIMIZE)
    n_best = math.ceil(len(costs) / pruner.reduction_factor**2)
    for number in sorted(costs, key=lambda number: (costs[number], number))[:n_best]:
        for rung in rungs:
            if promotion := rung.promote([number], "projection"):
                return promotion
    return None


def _promote_balanced(rungs: Sequence[_Rung]) -> Promotion | None:
    """Return the promotion of the trial that the smallest share of its rung surpasses, of the highest rung first.

    As with a reduction factor that falls step by step, all rungs get their part of the budget.
    """
    places = []
    for rung in rungs:
        place = next((place for place, number in enumerate(rung.ranked) if number in rung.paused), None)
        if place is not None:
            places.append((place / len(rung.ranked), -rung.rung, rung))
    if not places:
        return None
    rung = min(places, key=lambda place: place[:2])[2]
    return rung.promote(rung.ranked, "last")


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
