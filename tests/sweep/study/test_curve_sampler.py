"""The sampler that learns from partial trials."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from harness.sweep.optuna_internals import is_in_distribution, return_to_waiting, start_new_trial, suggest_value
from harness.sweep.study.curve_sampler import CurveSampler
from harness.sweep.study.gaussian_process import GaussianProcess, log_expected_improvement
from harness.sweep.study.liveness import this_process
from harness.sweep.study.projection import CLIP, TrialCurve, encode_shared_params, project_curves, read_curve
from harness.sweep.study.sampler import ReproducibleSampler
from harness.sweep.study.trial_attrs import WORKER

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-6, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.5, step=0.1),
    "rank": IntDistribution(1, 64, log=True),
    "batch": CategoricalDistribution([8, 16, 32]),
}


def loss_of(params: Mapping[str, Any]) -> float:
    """Return a loss that is least, 0, at LR 1e-3, dropout 0, rank 64 and batch 16."""
    return (
        (math.log10(params["lr"]) + 3) ** 2
        + params["dropout"]
        + 0.2 * math.log2(64 / params["rank"])
        + 0.3 * (params["batch"] != 16)
    )


def make_study(sampler: Callable[[int], BaseSampler] = CurveSampler, seed: int = 1, **options: Any) -> Study:
    return optuna.create_study(sampler=ReproducibleSampler(sampler, seed, 6), **options)


def run_trial(study: Study, loss: Callable[[Mapping[str, Any]], float] = loss_of, *, is_partial: bool) -> Trial:
    """Run a trial to 4%, where its loss is higher by a half, or to its end."""
    trial = start_new_trial(study, {WORKER: this_process()})
    for name, distribution in SPACE.items():
        suggest_value(trial, name, distribution)
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    value = loss(trial.params)
    trial.report(sign * (value + 0.5), 4)
    if is_partial:
        return_to_waiting(study, trial, {})
    else:
        study.tell(trial, sign * value)
    return trial


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_it_finds_the_optimum_from_mostly_partial_trials(direction) -> None:
    losses = {}
    for sampler in (CurveSampler, RandomSampler):
        studies = [make_study(sampler, seed, direction=direction) for seed in range(3)]
        for study in studies:
            for number in range(36):
                run_trial(study, is_partial=number % 4 > 0)
        losses[sampler] = [loss_of(trial.params) for study in studies for trial in study.trials[-12:]]
    assert np.median(losses[CurveSampler]) < 0.7 < 2.0 < np.median(losses[RandomSampler])
    assert min(losses[CurveSampler]) < 0.2


def test_proposals_depend_on_the_seed_and_the_study_only() -> None:
    studies = [make_study(seed=seed) for seed in (1, 1, 2)]
    for study in studies:
        for number in range(14):
            run_trial(study, is_partial=number % 3 > 0)
            study.sampler = ReproducibleSampler(CurveSampler, 2 if study is studies[2] else 1, 6)  # a new process
    params = [[trial.params for trial in study.trials] for study in studies]
    assert params[0] == params[1] != params[2]


def test_two_workers_do_not_get_the_same_proposal() -> None:
    study = make_study()
    for number in range(20):
        run_trial(study, is_partial=number % 3 > 0)
    trials = [start_new_trial(study, {WORKER: this_process()}) for _ in range(4)]
    for trial in trials:
        for name, distribution in SPACE.items():
            suggest_value(trial, name, distribution)
    lrs = sorted(math.log10(trial.params["lr"]) for trial in trials)
    distinct = {tuple(trial.params[name] for name in ("dropout", "rank", "batch")) for trial in trials}
    assert min(np.diff(lrs)) > 1e-3 or len(distinct) == 4


@pytest.mark.parametrize(
    "loss",
    [
        lambda params: math.nan,
        lambda params: 1.0,
        lambda params: 1e308 if params["lr"] > 1e-3 else 2.0,
        lambda params: math.inf if params["lr"] > 1e-3 else -1e300,
        lambda params: math.nan if params["lr"] > 1e-4 else params["lr"],
    ],
    ids=["all NaN", "all equal", "huge", "infinite", "mostly NaN"],
)
def test_values_that_say_little_are_survived(loss) -> None:
    study = make_study()
    for number in range(16):
        run_trial(study, loss, is_partial=number % 3 > 0 or math.isnan(loss(study.trials[-1].params) if number else 1))
    for name, distribution in SPACE.items():
        assert is_in_distribution(distribution, study.trials[-1].params[name])


def test_diverged_trials_count_as_the_worst() -> None:
    study = make_study()
    for _ in range(20):
        trial = start_new_trial(study, {WORKER: this_process()})
        lr = trial.suggest_float("lr", 1e-6, 1.0, log=True)
        trial.report(-math.log10(lr), 4)  # a large LR looks good early
        if lr > 1e-2:
            trial.report(math.nan, 5)
            trial.set_constraint("diverged", 1.0)
        study.tell(trial, state=TrialState.PRUNED)
    last = [trial.params["lr"] for trial in study.trials[-6:]]
    assert 1e-4 < np.median(last) < 2e-2


def test_conditional_spaces_are_left_to_tpe_with_projected_values() -> None:
    best = []
    for seed in range(3):
        study = make_study(seed=seed)
        for number in range(36):
            trial = start_new_trial(study, {WORKER: this_process()})
            optimizer = trial.suggest_categorical("optimizer", ["adamw", "sgd"])
            lr = trial.suggest_float(f"lr @ optimizer={optimizer}", 1e-5, 1.0, log=True)
            value = abs(math.log10(lr) + (3 if optimizer == "adamw" else 1)) + (optimizer == "sgd")
            trial.report(value + 0.5, 4)
            if number % 4:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, value)
        best.append(min(trial.intermediate_values[4] - 0.5 for trial in study.trials))
        assert sum(trial.params["optimizer"] == "adamw" for trial in study.trials[-12:]) > 6
    assert np.median(best) < 0.15


def test_studies_with_several_objectives_are_left_to_tpe() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=ReproducibleSampler(CurveSampler, 1))
    for _ in range(12):
        trial = start_new_trial(study, {WORKER: this_process()})
        x = trial.suggest_float("x", 0, 1)
        study.tell(trial, [x, x * x])
    assert len({trial.params["x"] for trial in study.trials}) == 12


def freeze(state: TrialState, values: Mapping[int, float], value: float | None = None, **options: Any) -> FrozenTrial:
    return create_trial(state=state, value=value, intermediate_values=dict(values), **options)


def test_curves_hold_the_best_values_so_far() -> None:
    minimize, maximize = StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE
    waiting = freeze(TrialState.WAITING, {0: 1.0, 4: 5.0, 8: math.nan, 12: 6.0})
    assert read_curve(waiting, minimize) == TrialCurve([4, 12], [5.0, 5.0])
    assert read_curve(waiting, maximize) == TrialCurve([4, 12], [-5.0, -6.0])
    complete = freeze(TrialState.COMPLETE, {50: 2.0, 100: 3.0}, 3.0)
    assert read_curve(complete, minimize) == TrialCurve([50, 100], [2.0, 3.0])
    diverged = freeze(TrialState.PRUNED, {4: 0.1}, constraints={"diverged": 1.0})
    assert read_curve(diverged, minimize) == TrialCurve((), ())
    for unknown in (freeze(TrialState.RUNNING, {0: 1.0}), freeze(TrialState.FAIL, {4: 1.0})):
        assert read_curve(unknown, minimize) is None


def test_partial_curves_gain_what_the_median_gained() -> None:
    whole = [TrialCurve([4, 12, 100], [9.0, 7.0 - gain, 5.0 - gain]) for gain in (0.0, 1.0, 4.0)]
    projected = project_curves([*whole, TrialCurve([4], [8.0]), TrialCurve([12], [7.0])], np.zeros((5, 0)))
    assert projected == pytest.approx([5, 4, 1, 3, 5])
    assert list(project_curves([TrialCurve([4], [2.0]), TrialCurve((), ())], np.zeros((2, 0)))) == [2.0, 2.0]
    partial = [TrialCurve([4], [float(value)]) for value in (0, 1, 1, 1, 1e90)]
    clipped = project_curves([*partial, TrialCurve((), ())], np.zeros((6, 0)))
    assert list(clipped) == [0, 1, 1, 1, CLIP, CLIP]


def test_gains_that_depend_on_the_params_are_expected_of_others() -> None:
    rng = np.random.default_rng(0)
    points, starts = rng.random((30, 2)), 3 + rng.random(30)
    ends = starts - 1 + points[:, 0]  # gains of 0 to 1; the second param does not matter
    whole = [TrialCurve([4, 100], [*pair]) for pair in zip(starts[:15], ends[:15], strict=True)]
    projected = project_curves([*whole, *(TrialCurve([4], [start]) for start in starts[15:])], points)
    middle = starts[15:] - np.median(1 - points[:15, 0])
    assert np.abs(projected[15:] - ends[15:]).mean() < 0.3 * np.abs(middle - ends[15:]).mean()


def test_objectives_that_are_worse_than_the_values_before_them_are_expected_of_others() -> None:
    points = np.linspace(0, 1, 12)[:, None]
    whole = [TrialCurve([4, 100], [1.0, 2.0 + point]) for point in points[:11, 0]]
    projected = project_curves([*whole, TrialCurve([4], [1.0])], points)
    assert projected[11] == pytest.approx(3.0, abs=0.1)


def test_only_params_that_all_trials_have_are_encoded() -> None:
    lr, rank, other = FloatDistribution(1e-4, 1.0, log=True), IntDistribution(1, 5), FloatDistribution(0.0, 1.0)
    trials = [
        freeze(TrialState.WAITING, {}, params={"lr": 1e-2, "rank": 5, "clip": 1.0},
               distributions={"lr": lr, "rank": rank, "clip": other}),
        freeze(TrialState.WAITING, {}, params={"lr": 1.0, "rank": 3}, distributions={"lr": lr, "rank": rank}),
        freeze(TrialState.WAITING, {}, params={"lr": 1e-4, "rank": 3, "clip": 1.0},
               distributions={"lr": lr, "rank": rank, "clip": lr}),
    ]  # fmt: skip
    assert encode_shared_params(trials)[:, 0] == pytest.approx([0.5, 1.0, 0.0])
    assert encode_shared_params(trials).shape == (3, 2)
    assert encode_shared_params([]).shape == (0, 0)


def test_the_gaussian_process_predicts_and_knows_what_it_does_not_know() -> None:
    rng = np.random.default_rng(0)
    points, others = rng.random((60, 3)), rng.random((50, 3))

    def height(at: np.ndarray) -> np.ndarray:
        return np.sin(5 * at[:, 0]) + at[:, 1] ** 2  # the last column does not matter

    process = GaussianProcess(points, height(points) - height(points).mean())
    means, deviations = process.predict(others)
    errors = means + height(points).mean() - height(others)
    assert np.abs(errors).max() < 0.1
    assert np.mean(np.abs(errors) < 2 * deviations + 0.01) > 0.8
    process.add_points(others)
    assert process.predict(others)[1].mean() < deviations.mean() / 2


def test_expected_improvement_is_finite_far_above_the_threshold() -> None:
    means = np.array([-1.0, 0.0, 4.9, 5.1, 30.0])
    found = log_expected_improvement(means, np.ones(5), 0.0)
    assert np.exp(found[:2]) == pytest.approx([1.0833, 0.3989], rel=1e-3)  # z Phi(z) + phi(z)
    assert np.all(np.diff(found) < 0)
    assert np.isfinite(found).all()
