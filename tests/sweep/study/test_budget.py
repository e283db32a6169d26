"""When failures, patience and tokens end a study."""

import math
from dataclasses import replace

import pytest
from optuna.trial import FrozenTrial

from harness.sweep.study.budget import Budget
from tests.sweep.studies import (
    ask_trial,
    complete_trial,
    fail_trial,
    new_study,
    pause_trial,
    promote_trial,
)

BUDGET = Budget(n_trials=10)


def make_trials(outcomes: str) -> list[FrozenTrial]:
    """Return trials that completed, written as o, or failed, written as x."""
    study = new_study()
    for outcome in outcomes:
        trial = ask_trial(study)
        complete_trial(study, trial) if outcome == "o" else fail_trial(study, trial, "failed", reason="no luck")
    return study.get_trials()


@pytest.mark.parametrize(
    ("rate", "outcomes", "is_over"),
    [
        (0.0, "ooo", False),
        (0.0, "x", True),
        (0.0, "ox", True),
        (0.2, "x", False),  # of ten trials two may fail
        (0.2, "xx", False),
        (0.2, "xxx", True),
        (0.5, "xxo", False),
        (0.5, "xxxo", True),
        (0.5, "xxoo", False),
        (1.0, "xxxxxxxxxx", False),
    ],
)
def test_failure_rate(rate, outcomes, is_over) -> None:
    budget = replace(BUDGET, max_failure_rate=rate)
    assert bool(budget.describe_failures(make_trials(outcomes))) is is_over
    assert bool(budget.describe_failure_rate(make_trials(outcomes))) is is_over


def test_failures_in_a_row_without_a_rate() -> None:
    budget = replace(BUDGET, max_failures=3)
    assert not budget.describe_failures(make_trials("xxoxx"))
    reason = budget.describe_failures(make_trials("oxxx"))
    assert reason.startswith("3 trials in a row failed (trials 1, 2, 3: no luck)")
    assert budget.describe_failure_rate(make_trials("oxxx")) == ""


def test_patience_counts_trials_in_the_order_of_their_ends() -> None:
    study = new_study()
    budget = replace(BUDGET, patience=2)
    pause_trial(study, ask_trial(study), 4)
    for value in (3.0, 2.0):
        complete_trial(study, ask_trial(study), value)
    complete_trial(study, promote_trial(study, 0, 100), 1.0)  # the first trial is the best, and ends last
    assert budget.describe_exhaustion(study.trials, 0.0) == ""
    for value in (3.0, 2.0):
        complete_trial(study, ask_trial(study), value)
    assert budget.describe_exhaustion(study.trials, 0.0) == "no better value in 2 trials"


def test_failures_in_a_row_are_those_that_ended_in_a_row() -> None:
    study = new_study()
    budget = replace(BUDGET, max_failures=2)
    pause_trial(study, ask_trial(study), 4)
    for _ in range(2):
        fail_trial(study, ask_trial(study), "failed", reason="no luck")
    assert budget.describe_failures(study.trials)
    complete_trial(study, promote_trial(study, 0, 100))
    assert budget.describe_failures(study.trials) == ""


def test_tokens_of_running_trials_are_reserved_however_far_they_are() -> None:
    """A whole run takes 1,000 tokens; the tokens of a running trial are those of its last pause."""
    study, budget = new_study(), replace(BUDGET, max_tokens=3000)
    for _ in range(2):
        pause_trial(study, ask_trial(study), 12)
    assert budget.find_share_left(study.trials) == pytest.approx(3 - 0.24)
    running = promote_trial(study, 0, 36)
    for percent in (20, 30):
        assert budget.find_share_left(study.trials) == pytest.approx(3 - 0.36 - 0.12)
        running.report(4.0, percent)
    whole = ask_trial(study)  # its target is the end of the run
    for percent in (50, 90):
        assert budget.find_share_left(study.trials) == pytest.approx(3 - 0.36 - 0.12 - 1)
        whole.report(4.0, percent)
    fail_trial(study, whole)  # its worker has died after 90%
    assert budget.find_share_left(study.trials) == pytest.approx(3 - 0.36 - 0.12 - 0.9)


def test_the_first_trials_are_limited_by_the_expected_tokens_of_a_run() -> None:
    study, budget = new_study(), replace(BUDGET, max_tokens=1500, run_tokens=1000)
    assert budget.find_share_left(study.trials) == pytest.approx(1.5)
    ask_trial(study)
    assert budget.find_share_left(study.trials) == pytest.approx(0.5)
    assert replace(budget, run_tokens=None).find_share_left(study.trials) == math.inf


def test_the_runs_of_a_budget_are_those_of_its_tightest_limit() -> None:
    assert Budget(24).count_runs() == 24
    assert Budget(200, runs=8).count_runs() == 8
    assert Budget(200, runs=8, max_tokens=500, run_tokens=100).count_runs() == 5
