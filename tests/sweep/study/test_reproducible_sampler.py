"""Rounding of the values that a sampler suggests."""

import optuna
import pytest
from optuna.distributions import FloatDistribution

from harness.sweep.study.sampler import ReproducibleSampler, round_in_range

LOG, UNIT = FloatDistribution(1e-5, 1e-3, log=True), FloatDistribution(0.0, 1.0)


@pytest.mark.parametrize(
    ("value", "dist", "rounded"),
    [
        (0.00013385298778232683, LOG, 0.000133853),
        (1.00000012e-5, LOG, 1e-5),
        (0.00099999999, LOG, 1e-3),
        (0.2816570174199529, UNIT, 0.281657),
        (0.0, UNIT, 0.0),
        (1.23456789e-7, UNIT, 1.23457e-7),
        (0.3, FloatDistribution(0.3, 0.3), 0.3),
        (0.99999999, FloatDistribution(0.0, 0.99999991), 0.99999991),  # never out of the range
        (1000000.512345678, FloatDistribution(1000000.5, 1000000.7), 1000000.512346),  # six digits of the width
    ],
)
def test_values_are_rounded_to_digits_that_matter(value: float, dist: FloatDistribution, rounded: float) -> None:
    assert round_in_range(value, dist, 6) == pytest.approx(rounded, rel=1e-13)


def test_the_study_has_what_is_suggested() -> None:
    study = optuna.create_study(sampler=ReproducibleSampler(lambda seed: optuna.samplers.TPESampler(seed=seed), 0, 6))
    for _ in range(12):  # independent values first, then relative ones
        trial = study.ask()
        lr, share = trial.suggest_float("lr", 1e-5, 1e-3, log=True), trial.suggest_float("share", 0, 1, step=0.1)
        assert lr == float(f"{lr:.6g}") == study.trials[trial.number].params["lr"]
        assert trial.suggest_int("rank", 1, 9) in range(1, 10)
        study.tell(trial, lr + share)
