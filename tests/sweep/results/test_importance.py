"""Parameter importances and idle parameters."""

import pytest
from optuna.distributions import IntDistribution
from optuna.trial import create_trial

from harness.sweep.results.importance import find_idle_params
from tests.sweep.studies import (
    ask_conditional_trial,
    ask_trial,
    complete_outside_trial,
    complete_trial,
    new_study,
    summarize,
)


def test_importances_and_idle_params() -> None:
    study = new_study()
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    summary = summarize(study, 40)
    assert next(iter(summary.importances)) == "optimizer.lr"
    assert sum(summary.importances.values()) == pytest.approx(1)
    assert summary.idle_params == ("loop.grad_clip",)
    assert summarize(study, 40, with_importances=False).importances == {}


def test_idle_params_with_baseline_outside_space() -> None:
    study = new_study()
    complete_outside_trial(study, 3.9, **{"optimizer.lr": 1.0})
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    assert find_idle_params(study, {"optimizer.lr": 0.9, "lora.rank": 0.08, "loop.grad_clip": 0.02}) == [
        "loop.grad_clip"
    ]


def test_idle_needs_agreement_of_both_measures() -> None:
    study = new_study()
    for _ in range(40):
        complete_trial(study, ask_trial(study))
    assert find_idle_params(study, {"optimizer.lr": 0.01, "lora.rank": 0.97, "loop.grad_clip": 0.02}) == [
        "loop.grad_clip"
    ]


@pytest.mark.parametrize(("trials", "weighed"), [(7, False), (8, True), (11, True)])
def test_too_few_trials_for_idle_params(trials: int, weighed: bool) -> None:
    study = new_study()
    for _ in range(trials):
        complete_trial(study, ask_trial(study))
    summary = summarize(study, trials)
    assert bool(summary.importances) == weighed
    assert summary.idle_params == ()


def test_conditional_params_are_never_idle() -> None:
    study = new_study()
    for _ in range(30):
        complete_trial(study, ask_conditional_trial(study))
    assert not any("@" in name for name in summarize(study, 30).idle_params)


def test_constant_study_has_no_idle_params() -> None:
    study = new_study()
    for _ in range(12):
        study.add_trial(create_trial(value=3.0, params={"x": 1}, distributions={"x": IntDistribution(1, 1)}))
    assert summarize(study, 12).idle_params == ()
