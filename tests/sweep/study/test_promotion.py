"""Which paused trial is continued, from studies made by hand."""

import math
from collections.abc import Sequence
from dataclasses import replace

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.liveness import this_process
from harness.sweep.study.pausing import PausingPruner
from harness.sweep.study.promotion import Promotion, choose_promotion
from harness.sweep.study.rungs import list_rung_costs
from harness.sweep.study.trial_attrs import PROMOTIONS, RESULT, TARGET, WORKER
from tests.sweep.tiny_sweeps import TINY, read_tiny_request

PRUNER = PausingPruner(project_every=None)


def make_trial(
    values: dict[int, float], state: TrialState = TrialState.WAITING, lr: float = 0.5, **attrs: object
) -> FrozenTrial:
    """Return a trial that has reported `values` by percent, and waits at the last of them."""
    last = max(values, default=0)
    known = {WORKER: this_process(), TARGET: last, RESULT: {
        "status": "paused", "fraction_done": last / 100, "checkpoint": "c",
    }}  # fmt: skip
    trial = optuna.trial.create_trial(
        state=state,
        value=values[last] if state == TrialState.COMPLETE else None,
        intermediate_values=values,
        params={"lr": lr},
        distributions={"lr": FloatDistribution(0.0, 1.0)},
        user_attrs={**known, **attrs},
    )
    return trial


def number_trials(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    for number, trial in enumerate(trials):
        trial.number = number
    return list(trials)


def choose(*trials: FrozenTrial, **options: object) -> Promotion | None:
    return choose_promotion(number_trials(trials), options.pop("pruner", PRUNER), options.pop("sign", 1), **options)


def test_nothing_is_promoted_before_there_are_three_at_a_rung() -> None:
    assert choose() is None
    assert choose(make_trial({4: 1.0}), make_trial({4: 2.0})) is None


@pytest.mark.parametrize(("sign", "number"), [(1, 1), (-1, 2)])
def test_the_best_third_is_promoted_in_either_direction(sign: int, number: int) -> None:
    trials = [make_trial({4: value}) for value in (2.0, 1.0, 3.0)]
    assert choose(*trials, sign=sign) == Promotion(number, 4, 12, "rank")


def test_the_highest_rung_comes_first() -> None:
    trials = [make_trial({4: 1.0 + index, 12: 1.0 + index}) for index in range(3)]
    trials += [make_trial({4: 0.1 * index}) for index in range(9)]
    assert choose(*trials) == Promotion(0, 12, 36, "rank")


def test_trials_that_went_on_keep_their_rank() -> None:
    trials = [make_trial({4: 1.0, 12: 1.0}), make_trial({4: 2.0}), make_trial({4: 3.0})]
    assert choose(*trials) is None
    trials += [make_trial({4: value}) for value in (4.0, 5.0, 6.0)]
    assert choose(*trials) == Promotion(1, 4, 12, "rank")


def test_running_completed_and_pruned_trials_count_but_are_not_promoted() -> None:
    trials = [
        make_trial({4: 0.5}, TrialState.RUNNING),
        make_trial({4: 0.6, 12: 0.5, 36: 0.4, 100: 0.3}, TrialState.COMPLETE),
        make_trial({4: 0.7}, TrialState.PRUNED),
        *[make_trial({4: 1.0 + index}) for index in range(9)],
    ]
    assert choose(*trials[:9]) is None
    assert choose(*trials) == Promotion(3, 4, 12, "rank")


def test_values_that_are_not_finite_and_failed_trials_are_never_best() -> None:
    broken = [make_trial({4: math.nan}), make_trial({4: math.inf}), make_trial({4: -math.inf})]
    assert choose(*broken) is None
    assert choose(*broken, make_trial({4: 5.0})) == Promotion(3, 4, 12, "rank")
    failed = [make_trial({4: 0.1}, TrialState.FAIL) for _ in range(5)]
    assert choose(*failed, make_trial({4: 1.0}), make_trial({4: 2.0})) is None


def test_a_value_before_training_and_later_worse_ones_do_not_count() -> None:
    assert list_rung_costs(make_trial({0: 0.1, 5: 3.0, 13: 2.0, 20: 1.0, 37: 4.0}), (4, 12, 36), 1) == [3.0, 2.0, 1.0]
    assert list_rung_costs(make_trial({0: 0.1, 3: 2.0}), (4, 12, 36), 1) == []


def test_what_does_not_fit_is_passed_over() -> None:
    trials = [make_trial({4: float(index)}) for index in range(6)]
    found = choose(*trials, may_continue=lambda trial, target: trial.number != 0 and target == 12)
    assert found == Promotion(1, 4, 12, "rank")


def test_in_the_last_phase_the_number_is_rounded_up() -> None:
    trials = [make_trial({4: 2.0}), make_trial({4: 1.0})]
    assert choose(*trials, phase="last") == Promotion(1, 4, 12, "last")


def test_the_rest_of_a_budget_is_spent_on_the_best_that_are_left() -> None:
    trials = [make_trial({4: 1.0, 12: 1.0, 36: 1.0, 100: 1.0}, TrialState.COMPLETE)]
    trials += [make_trial({4: 1.0 + index, 12: 1.0 + index}) for index in range(2)]
    assert choose(*trials, phase="last") is None
    assert choose(*trials, phase="rest") == Promotion(1, 12, 36, "last")


def test_a_budget_that_is_left_without_new_trials_is_spent_on_all_rungs() -> None:
    """The trial is promoted that the smallest share of its rung surpasses, and of equal ones the furthest."""
    trials = [make_trial({4: 1.0 + index, 12: 1.0 + index, 36: 1.0 + index}) for index in range(2)]
    trials += [make_trial({4: 3.0 + index, 12: 3.0 + index}) for index in range(2)]
    trials += [make_trial({4: 5.0 + index}) for index in range(4)]
    taken: list[Promotion] = []
    while (promotion := choose(*trials, phase="relaxed")) is not None:
        taken.append(promotion)
        trials[promotion.number].intermediate_values[promotion.target] = 1.0 + promotion.number
        if promotion.target == 100:
            trials[promotion.number].state = TrialState.COMPLETE
    assert [(one.number, one.start) for one in taken[:4]] == [(0, 36), (1, 36), (2, 12), (4, 4)]
    assert len(taken) == 2 + 2 * 2 + 4 * 3  # all of them complete


def test_some_promotions_go_to_the_best_projected_value() -> None:
    """Small learning rates gain late, and ranks alone would leave them behind."""
    pruner = PausingPruner(project_every=4)
    ahead = [make_trial({4: 2.0, 12: 1.0 + lr}, lr=lr) for lr in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    behind = [make_trial({4: 2.1 + index / 100}, lr=0.9) for index in range(11)]
    slow = make_trial({4: 2.15}, lr=0.4)
    ahead[0].state = TrialState.RUNNING
    ahead[0].user_attrs[PROMOTIONS] = [{"start": 4, "target": 12, "reason": "rank"}] * 3
    assert choose(*ahead, *behind, slow, pruner=pruner) == Promotion(17, 4, 12, "projection")
    ahead[0].user_attrs[PROMOTIONS] *= 2
    assert choose(*ahead, *behind, slow, pruner=pruner) == Promotion(1, 12, 36, "rank")


def test_no_trial_is_expected_to_gain_more_than_others_have() -> None:
    """At first the lowest LRs of a range, far from those that went on, seemed to be the best ones."""
    pruner = PausingPruner(project_every=4)
    ahead = [make_trial({4: 2.0, 12: 1.0 + lr}, lr=lr) for lr in (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)]
    lowest = [make_trial({4: 2.4}, lr=0.0) for _ in range(12)]
    ahead[0].user_attrs[PROMOTIONS] = [{"start": 4, "target": 12, "reason": "rank"}] * 3
    assert choose(*ahead, *lowest, pruner=pruner) == Promotion(0, 12, 36, "projection")


def test_trials_whose_projected_values_are_bad_are_not_promoted_by_them() -> None:
    pruner = PausingPruner(project_every=2)
    trials = [make_trial({4: 1.0, 12: 1.0}, TrialState.COMPLETE), *(make_trial({4: 2.0 + index}) for index in range(8))]
    trials[0].user_attrs[PROMOTIONS] = [{"start": 4, "target": 12, "reason": "rank"}]
    assert choose(*trials, pruner=pruner) == Promotion(1, 4, 12, "rank")


def make_option(key: str, *curves: dict[int, float], state: TrialState = TrialState.WAITING) -> list[FrozenTrial]:
    """Return trials that search another key than those of other options."""
    trials = [make_trial(values, state) for values in curves]
    for trial in trials:
        trial.params, trial.distributions = {key: 0.5}, {key: FloatDistribution(0.0, 1.0)}
    return trials


def promote_often(trial: FrozenTrial, n: int) -> None:
    trial.user_attrs[PROMOTIONS] = [{"start": 4, "target": 12, "reason": "rank"}] * n


def test_an_option_without_a_completed_trial_gets_a_turn() -> None:
    """Late starters, such as LAMB, are behind the others at every early rung."""
    pruner = PausingPruner(project_every=8)
    adamw = make_option("lr @ optimizer=adamw", *({4: 1.0 + index} for index in range(6)))
    done = make_option("lr @ optimizer=sgd", {4: 3.0, 12: 3.0, 36: 3.0, 100: 1.0}, state=TrialState.COMPLETE)
    lamb = make_option("lr @ optimizer=lamb", {4: 9.0}, {4: 8.5}, {4: 8.0, 12: 7.5})
    promote_often(done[0], 4)
    assert choose(*done, *adamw, *lamb, pruner=pruner) == Promotion(1, 4, 12, "coverage")
    adamw[0].intermediate_values |= {12: 0.9, 36: 0.8}
    assert choose(*done, *adamw, *lamb, pruner=pruner) == Promotion(9, 12, 36, "coverage")
    lamb[2].state = TrialState.RUNNING
    assert choose(*done, *adamw, *lamb, pruner=pruner) == Promotion(1, 36, 100, "coverage")
    adamw[0].state = TrialState.COMPLETE
    assert choose(*done, *adamw, *lamb, pruner=pruner) == Promotion(2, 4, 12, "rank")


@pytest.mark.parametrize("n_promotions", [0, 3, 5, 8])
def test_it_is_one_turn_of_many(n_promotions: int) -> None:
    options = [*make_option("sgd", *({4: 1.0 + index} for index in range(6))), *make_option("lamb", *[{4: 9.0}] * 3)]
    promote_often(options[0], n_promotions)
    assert choose(*options, pruner=PausingPruner(project_every=8)) == Promotion(0, 4, 12, "rank")


def test_a_trial_that_cannot_go_on_does_not_stop_its_option() -> None:
    pruner = PausingPruner(project_every=8)
    done = make_option("sgd", {4: 3.0, 12: 3.0, 36: 3.0, 100: 1.0}, state=TrialState.COMPLETE)
    lamb = make_option("lamb", {4: 9.0}, {4: 8.0}, {4: 8.0})
    lamb += make_option("lamb", {4: 7.0, 12: math.inf}, state=TrialState.PRUNED)
    promote_often(done[0], 4)
    assert choose(*done, *lamb, pruner=pruner) == Promotion(2, 4, 12, "coverage")


def test_trials_with_other_keys_by_chance_are_no_options() -> None:
    pruner = PausingPruner(project_every=8)
    flat = make_option("lr", *({4: 1.0 + index} for index in range(6)))
    odd = [*make_option("part", *[{4: 9.0}] * 3, state=TrialState.FAIL), *make_option("other", {4: 9.0})]
    promote_often(flat[0], 4)
    assert choose(*flat, *odd, pruner=pruner) == Promotion(0, 4, 12, "coverage")
    flat[0].intermediate_values |= {12: 1.0, 36: 1.0, 100: 1.0}
    flat[0].state = TrialState.COMPLETE
    assert choose(*flat, *odd, pruner=pruner) == Promotion(1, 4, 12, "rank")


@pytest.mark.parametrize(("start", "expected"), [(0.0, (4, 12, 36)), (0.2, (23, 30, 49)), (1.0, (90, 91, 94))])
def test_rungs_are_shares_of_what_follows_their_start(start: float, expected: tuple[int, ...]) -> None:
    assert PausingPruner(start=start).rungs == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rungs": []}, "rungs"),
        ({"rungs": [0.5, 0.1]}, "increasing"),
        ({"rungs": [0.1, 1.0]}, "between 0 and 1"),
        ({"rungs": [0.001, 0.5]}, "1% of a run apart"),
        ({"rungs": [0.5, 0.502]}, "1% of a run apart"),
        ({"reduction_factor": 1}, "at least 2"),
        ({"project_every": 1}, "at least 2"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PausingPruner(**options)


def test_a_given_start_of_rungs_is_kept(places: list[str]) -> None:
    spec = read_tiny_request(*TINY, *places, "pruner=pausing", "+pruner.start=0.5").spec
    assert replace(spec, rung_start=0.2).list_rungs()[0] == pytest.approx(0.52)
