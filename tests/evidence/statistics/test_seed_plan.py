"""Seeds added in steps."""

import numpy as np
import pytest
from scipy.stats import norm

from benchmarks.evidence import DESIGNS, NOISES, draw_pair, run_plan
from harness.evidence import SeedPlan
from harness.evidence.statistics.seed_plan import compute_look_levels


def test_boundaries_are_the_published_ones() -> None:
    """Five equal steps, two-sided 5%: Lan and DeMets' approximation of O'Brien and Fleming's boundaries."""
    boundaries = norm.isf(np.array(compute_look_levels((1, 2, 3, 4, 5), 0.05)) / 2)
    assert boundaries == pytest.approx([4.877, 3.357, 2.680, 2.290, 2.031], abs=1e-3)


def test_boundaries_spend_the_level_in_a_simulation() -> None:
    looks = (3, 5, 6, 10)
    sums = np.random.default_rng(0).normal(size=(100_000, 10)).cumsum(1)
    boundaries = norm.isf(np.array(compute_look_levels(looks, 0.05)) / 2)
    crossed = [np.abs(sums[:, look - 1]) / np.sqrt(look) > bound for look, bound in zip(looks, boundaries, strict=True)]
    assert np.mean(np.any(crossed, axis=0)) == pytest.approx(0.05, abs=0.0025)


@pytest.mark.parametrize("design", DESIGNS)
@pytest.mark.parametrize("name", ["normal", "lognormal", "two basins", "10% diverge"])
def test_false_claims_over_all_looks(name: str, design: str) -> None:
    paired, shared = DESIGNS[design]
    for looks in ((3, 4, 5), (2, 4, 7, 10)):
        baseline, candidate = draw_pair(NOISES[name], np.random.default_rng(3), (2000, looks[-1]), shared)
        codes, _ = run_plan(SeedPlan(looks), baseline, candidate, paired)
        assert max(np.mean(codes == 1), np.mean(codes == 2)) <= 0.028 + 3.5 * np.sqrt(0.028 * 0.972 / 2000)


def test_large_differences_stop_early() -> None:
    baseline, candidate = draw_pair(NOISES["normal"], np.random.default_rng(0), (500, 10), 0.0)
    codes, used = run_plan(SeedPlan((3, 5, 7, 10)), baseline, candidate - 3, False)
    assert np.mean(codes == 1) > 0.99
    assert used.mean() < 8


def test_a_plan_decides_after_each_look() -> None:
    plan = SeedPlan((3, 5))
    baseline, candidate = [3.0, 3.1, 2.9, 3.05, 2.95], [2.0, 2.1, 1.9, 2.05, 1.95]
    first = plan.decide(baseline[:3], candidate[:3])
    assert (first.comparison.status, first.next_seeds) == ("not shown", 5)
    assert first.comparison.confidence == pytest.approx(1 - plan.levels[0])
    last = plan.decide(baseline, candidate)
    assert (last.comparison.status, last.next_seeds) == ("better", None)
    assert plan.decide(baseline, baseline).next_seeds is None
    pairs = plan.decide([3.0, 3.1, 2.9], [2.0, 2.102, 1.899], paired=True)
    assert (pairs.comparison.status, pairs.next_seeds) == ("not shown", 5)  # the level of this look is too low
    pairs = SeedPlan((4, 5)).decide([3.0, 3.1, 2.9, 3.0], [2.0, 2.102, 1.899, 2.001], paired=True)
    assert (pairs.comparison.status, pairs.next_seeds) == ("better", None)


def test_equivalence_stops_a_plan() -> None:
    losses = np.random.default_rng(0).normal(3, 0.01, size=(2, 10))
    decision = SeedPlan((3, 7, 10)).decide(losses[0, :7], losses[1, :7], margin=0.1)
    assert (decision.comparison.status, decision.next_seeds) == ("equivalent", None)


@pytest.mark.parametrize("looks", [(), (1, 2), (3, 3), (5, 4)])
def test_looks_must_increase(looks: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"looks: .*: must be increasing numbers of seeds from 2 up"):
        SeedPlan(looks)


def test_numbers_of_seeds_that_were_not_planned_are_refused() -> None:
    with pytest.raises(ValueError, match=r"looks: 4 seeds: not one of the planned looks \(3, 5\)"):
        SeedPlan((3, 5)).decide([1.0] * 4, [2.0] * 5)
