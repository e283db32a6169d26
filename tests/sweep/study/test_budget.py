"""When failures end a study."""

from dataclasses import replace

import pytest
from optuna.trial import FrozenTrial

from harness.sweep.study.budget import Budget
from tests.sweep.studies import ask_trial, complete_trial, fail_trial, new_study

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
