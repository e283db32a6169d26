"""Values at the boundary of their range, and wider ranges."""

import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.sweep.results.boundaries import find_boundary_hit
from harness.sweep.space.search_space import read_search_space

LR, SHARE = FloatDistribution(1e-3, 1e-1, log=True), FloatDistribution(0.0, 0.3)


@pytest.mark.parametrize(
    ("value", "distribution", "direction", "widened"),
    [
        (0.09, LR, "up", "tag(log,interval(0.001,0.4))"),
        (0.0011, LR, "down", "tag(log,interval(0.00025,0.1))"),
        (0.05, LR, None, None),  # near the end only if one forgets the logarithm: 0.05 is 85 % of the way
        (0.01, LR, None, None),
        (0.29, SHARE, "up", "interval(0.0,0.45)"),
        (0.0, SHARE, None, None),  # nothing below
        (0.85, FloatDistribution(0.5, 0.86), "up", "interval(0.5,1.0)"),
        (64, IntDistribution(2, 64, log=True), "up", "int(tag(log,interval(2,256)))"),
        (2, IntDistribution(2, 64, log=True), "down", "int(tag(log,interval(1,64)))"),
        (62, IntDistribution(2, 64, log=True), None, None),  # a whole number has to be the last
        (1, IntDistribution(1, 8), None, None),
        (0.3, FloatDistribution(0.1, 0.3, step=0.1), "up", "range(0.1,0.5,0.1)"),
        (32, CategoricalDistribution([8, 16, 32]), "up", "8,16,32,64"),
        (8, CategoricalDistribution([8, 16, 32]), "down", "4,8,16,32"),
        ("muon", CategoricalDistribution(["adamw", "muon", "sgd"]), None, None),
        (True, CategoricalDistribution([True, False]), None, None),
    ],
)
def test_boundary_hit_suggests_wider_range(value, distribution, direction, widened) -> None:
    hit = find_boundary_hit("some.key", value, distribution)
    assert (hit.direction, hit.wider_range) == (direction, widened) if widened else hit is None


@pytest.mark.parametrize(("value", "distribution"), [(0.09, LR), (64, IntDistribution(2, 64)), (0.29, SHARE)])
def test_wider_range_is_valid_sweep_syntax(value: float, distribution: BaseDistribution) -> None:
    hit = find_boundary_hit("optimizer.lr", value, distribution)
    taken = read_search_space([f"optimizer.lr={hit.wider_range}"], {}, {}).ranges["optimizer.lr"]
    assert type(taken) is type(distribution)
    assert taken.low == distribution.low
    assert taken.high > distribution.high
    assert taken.log == distribution.log


def test_boundary_hit_of_conditional_range() -> None:
    hit = find_boundary_hit("optimizer.lr @ optimizer=muon", 0.1, LR)
    assert (hit.key, hit.condition, hit.bound) == ("optimizer.lr", "optimizer=muon", 0.1)
