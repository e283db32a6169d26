"""compare_losses against other libraries, its symmetries, and what users may pass."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

import harness.evidence
from harness.evidence import SeedComparison, compare_losses
from tests.conftest import ROOT

NAN, INF = math.nan, math.inf


def draw_losses(case: int, n_seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return losses of one kind of noise after the other: normal, rounded, with an outlier, with a diverged seed."""
    rng = np.random.default_rng(case)
    losses = 3 + rng.normal(size=(2, n_seeds)) * 0.1 - np.array([[0.0], [rng.choice([0.0, 0.1, 0.3])]])
    if case % 4 == 1:
        losses = losses.round(1)
    elif case % 4 == 2:
        losses[case % 2, 0] = 50.0
    elif case % 4 == 3:
        losses[rng.integers(2), rng.integers(n_seeds)] = NAN
    return losses[0], losses[1]


CASES = [(case, n_seeds, paired) for case in range(24) for n_seeds in (2, 3, 5, 8) for paired in (False, True)]


def find_t_interval(baseline: np.ndarray, candidate: np.ndarray, paired: bool) -> tuple[float, float, float]:
    found = stats.ttest_rel(candidate, baseline) if paired else stats.ttest_ind(candidate, baseline, equal_var=False)
    interval = found.confidence_interval(0.95)
    return interval.low, interval.high, found.pvalue


@pytest.mark.parametrize("n_pairs", [3, 4])
def test_few_pairs_have_the_t_interval_of_scipy(n_pairs: int) -> None:
    baseline, candidate = draw_losses(0, n_pairs)
    found = compare_losses(baseline, candidate, paired=True)
    assert (found.low, found.high) == pytest.approx(find_t_interval(baseline, candidate, True)[:2])


@pytest.mark.parametrize("n_pairs", range(2, 8))
@pytest.mark.parametrize("n_candidates", range(1, 6))
def test_pairs_below_the_levels_of_the_rank_test_have_the_t_interval_of_scipy(n_pairs: int, n_candidates: int) -> None:
    """Only widened to include all differences; nothing is shown where two basins would claim more than the level."""
    alpha = 0.05 / n_candidates
    rng = np.random.default_rng(n_pairs)
    for shift in (0.0, -2.0, -40.0):
        baseline, candidate = rng.normal(5, 3, n_pairs), rng.normal(5, 3, n_pairs) + shift
        found = compare_losses(baseline, candidate, paired=True, confidence=1 - alpha)
        if 2 * 0.25**n_pairs > alpha:
            assert found.status == "not shown"
            assert any("too few seeds" in note for note in found.notes)
        elif 0.5**n_pairs > alpha:
            differences = candidate - baseline
            interval = stats.ttest_rel(candidate, baseline).confidence_interval(1 - alpha)
            assert found.low == pytest.approx(min(interval.low, differences.min()))
            assert found.high == pytest.approx(max(interval.high, differences.max()))
            assert not any("too few seeds" in note for note in found.notes)


def test_p_of_pairs_is_the_level_at_which_the_interval_excludes_zero() -> None:
    rng = np.random.default_rng(0)
    for n_pairs in range(2, 9):
        for shift in (0.5, 1, 2, 3, 5, 8):
            baseline, candidate = rng.normal(size=(2, n_pairs))
            claims = []
            for alpha in (0.0003, 0.001, 0.003, 0.008, 0.0125, 0.0167, 0.025, 0.0313, 0.05, 0.1):
                found = compare_losses(baseline, candidate - shift, paired=True, confidence=1 - alpha)
                claims.append(found.status != "not shown")
                assert claims[-1] == (found.p <= alpha)
            assert claims == sorted(claims)


@pytest.mark.parametrize("paired", [False, True])
def test_the_t_interval_of_scipy_is_kept_where_the_rank_intervals_allow_it(paired: bool) -> None:
    """Between the exact intervals, computed here from the order statistics of the differences, nothing is changed."""
    unchanged = 0
    for case in range(0, 200, 4):
        baseline, candidate = draw_losses(case, 8)
        found = compare_losses(baseline, candidate, paired=paired)
        low, high, p = find_t_interval(baseline, candidate, paired)
        if paired:
            differences = candidate - baseline
            steps = np.sort([(differences[i] + differences[j]) / 2 for i in range(8) for j in range(i + 1)])
            inner, outer = 6, 3  # critical values of Wilcoxon's test for 8 pairs: 5 at 5%, 2 at 1.67%
        else:
            steps = np.sort(np.subtract.outer(candidate, baseline).ravel())
            inner, outer = 16, 12  # of Mann and Whitney's for 8 and 8: 15 at 5%, 11 at 1.67%
        assert found.low == pytest.approx(np.clip(low, steps[outer - 1], steps[inner - 1]))
        assert found.high == pytest.approx(np.clip(high, steps[-inner], steps[-outer]))
        unchanged += (found.low, found.high, found.p) == pytest.approx((low, high, p))
    assert unchanged > 10


def test_statsmodels_agrees_on_intervals_and_equivalence() -> None:
    weightstats = pytest.importorskip("statsmodels.stats.weightstats")
    for case in range(0, 80, 4):
        baseline, candidate = draw_losses(case, 8)
        low, high = weightstats.CompareMeans.from_data(candidate, baseline).tconfint_diff(usevar="unequal")
        assert (low, high) == pytest.approx(find_t_interval(baseline, candidate, False)[:2])
        p = weightstats.ttost_ind(candidate, baseline, -0.2, 0.2, usevar="unequal")[0]
        found = compare_losses(baseline, candidate, margin=0.2)
        assert found.status != "equivalent" or p <= 0.05
        assert found.status == "equivalent" or p > 0.005


@pytest.mark.parametrize(("case", "n_seeds", "paired"), CASES)
def test_status_interval_and_p_agree(case: int, n_seeds: int, paired: bool) -> None:
    found = compare_losses(*draw_losses(case, n_seeds), paired=paired)
    assert found.low <= found.difference <= found.high
    assert (found.status == "better") == (found.high < 0)
    assert (found.status == "worse") == (found.low > 0)
    assert (found.status == "not shown") == (found.p > 0.05 + 1e-12)
    assert n_seeds > 2 or found.status == "not shown"


@pytest.mark.parametrize(("case", "n_seeds", "paired"), CASES)
def test_symmetries(case: int, n_seeds: int, paired: bool) -> None:
    """Sides may be swapped, seeds reordered, losses shifted and scaled."""
    baseline, candidate = draw_losses(case, n_seeds)
    margin = 0.15
    found = compare_losses(baseline, candidate, paired=paired, margin=margin)
    swapped = compare_losses(candidate, baseline, paired=paired, margin=margin)
    mirrored = {"better": "worse", "worse": "better"}
    assert swapped.status == mirrored.get(found.status, found.status)
    assert (swapped.low, swapped.high, swapped.difference) == pytest.approx(
        (-found.high, -found.low, -found.difference)
    )
    assert swapped.p == pytest.approx(found.p)

    order = np.random.default_rng(case).permutation(n_seeds)
    reordered = compare_losses(baseline[order], candidate[order], paired=paired, margin=margin)
    shifted = compare_losses(baseline + 7, candidate + 7, paired=paired, margin=margin)
    scaled = compare_losses(baseline * 1000, candidate * 1000, paired=paired, margin=margin * 1000)
    for other, scale in ((reordered, 1), (shifted, 1), (scaled, 1000)):
        assert other.status == found.status
        assert other.p == pytest.approx(found.p)
        assert (other.low, other.high) == pytest.approx((found.low * scale, found.high * scale))


def test_equivalence_has_priority_and_needs_enough_seeds() -> None:
    baseline, candidate = [3.0, 3.01, 3.02, 2.99, 3.005], [2.98, 2.99, 2.975, 2.97, 2.985]
    assert compare_losses(baseline, candidate).status == "better"
    assert compare_losses(baseline, candidate, margin=0.01).status == "better"
    assert compare_losses(baseline, candidate, margin=0.1).status == "equivalent"
    few = compare_losses(baseline[:4], candidate[:4], margin=0.1, paired=True)
    assert few.status != "equivalent"
    assert "equivalence needs at least 5 pairs at this level" in few.notes


def test_a_candidate_that_diverges_more_is_never_better() -> None:
    baseline = [3.0 + at / 100 for at in range(10)]
    candidate = [2.0 + at / 100 for at in range(9)]
    assert compare_losses(baseline, [*candidate, 2.5]).status == "better"
    for paired in (False, True):
        found = compare_losses(baseline, [*candidate, NAN], paired=paired)
        assert (found.status, found.high, found.p) == ("not shown", INF, 1.0)
        assert found.difference == pytest.approx(2.04 - 3.045)
        assert (found.diverged_baseline, found.diverged_candidate) == (0, 1)
        assert "candidate: 1 of 10 seeds diverged; each counts as worse than any loss" in found.notes
        assert compare_losses([*candidate, NAN], baseline, paired=paired).status == "not shown"


def test_diverged_seeds_count_as_the_greatest_losses() -> None:
    finite, lost = [3.0, 3.1, 2.9, 3.05, 2.95], [NAN, 3.02, INF, NAN, -INF]
    assert compare_losses(lost, [2.0, 2.1, 2.2, 1.9, 2.0]).status == "better"
    assert compare_losses(finite, [NAN] * 5).status == "worse"
    assert compare_losses(finite, [NAN] * 5, paired=True).status == "worse"
    assert compare_losses(lost, finite).status == "better"
    assert compare_losses([*finite[:4], NAN], finite).status == "not shown"
    nothing = compare_losses([NAN] * 5, [NAN] * 5, margin=1.0)
    assert (nothing.status, nothing.low, nothing.high) == ("not shown", -INF, INF)
    assert math.isnan(nothing.difference)
    assert compare_losses([1.0, NAN] * 5, [1.0, NAN] * 5, margin=1.0).status == "not shown"


def test_ranks_with_diverged_seeds_agree_with_scipy() -> None:
    baseline, candidate = [3.0, 3.1, INF, 3.3, 3.4, INF], [2.9, 3.05, 2.7, 2.6, 2.95, 2.85]
    expected = stats.mannwhitneyu(candidate, [min(loss, 9 + at) for at, loss in enumerate(baseline)], method="exact")
    assert compare_losses(baseline, candidate).p == pytest.approx(expected.pvalue)


def test_means_that_contradict_the_ranks_are_not_overruled() -> None:
    baseline, candidate = [3.0, 3.1, 2.9, 3.2, 3.05], [2.0, 2.1, 2.2, 1.9, 1e30]
    found = compare_losses(baseline, candidate)
    assert found.status == "not shown"
    assert found.low < 0 < found.difference <= found.high
    assert compare_losses([*baseline[:4], 1e30], [*candidate[:4], 2.0]).status == "better"


def test_losses_without_spread() -> None:
    """Losses that no seed changes show no noise, so that the t test would be certain at 2 seeds."""
    assert compare_losses([1.0] * 3, [0.9] * 3).status == "not shown"
    assert compare_losses([0.1 + 0.2] * 3, [0.3, 0.3, 0.3]).status == "not shown"
    assert compare_losses([1.0] * 5, [0.9] * 5, paired=True).status == "not shown"
    found = compare_losses([1.0] * 5, [0.9] * 5)
    assert found.status == "better"
    assert "baseline and candidate: the same loss for every seed; check that the seed changes the run" in found.notes
    same = compare_losses([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], paired=True)
    assert (same.status, same.difference, same.low, same.high) == ("not shown", 0, 0, 0)
    assert "the losses are identical seed by seed; check that the change reached the training" in same.notes


def test_equal_differences_of_seeds_that_vary_are_shown_as_nearly_equal_ones_are() -> None:
    """Seeds that only add noise leave differences that are equal, or equal up to rounding."""
    baseline = [1.206, 1.204, 1.207, 1.226, 1.244]
    for jitter in (0.0, 1e-15, 1e-9):
        candidate = [loss - 0.1952 + index * jitter for index, loss in enumerate(baseline)]
        found = compare_losses(baseline, candidate, paired=True)
        assert (found.status, found.p) == ("better", 2 * 0.25**5)
        assert found.high == pytest.approx(-0.1952)
        assert compare_losses(baseline[:2], candidate[:2], paired=True).status == "not shown"


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("n_seeds", [0, 1, 2])
def test_too_few_seeds_are_not_shown_with_the_reason(n_seeds: int, paired: bool) -> None:
    found = compare_losses([3.0, 3.1][:n_seeds], [1.0, 1.1][:n_seeds], paired=paired, margin=5.0)
    assert found.status == "not shown"
    assert "seeds" in found.notes[0]
    assert found.n == n_seeds


def test_sides_of_different_length() -> None:
    found = compare_losses([3.0, 3.1, 2.9, 3.05], np.linspace(2.0, 2.1, 12))
    assert (found.status, found.n, found.n_baseline, found.n_candidate) == ("better", 4, 4, 12)
    with pytest.raises(ValueError, match="candidate: 1 losses, but baseline has 2; pairs need both"):
        compare_losses([1.0, 2.0], [1.0], paired=True)


@pytest.mark.parametrize("losses", [(None, 1.0), ("3.1", 2.0), "abc", 3.0, (True, 1.0), ((1.0, 2.0),), np.ones((2, 2))])
def test_losses_that_are_no_numbers_are_refused(losses: object) -> None:
    with pytest.raises(ValueError, match=r"^candidate: .*: not a (number|list)"):
        compare_losses([1.0, 2.0], losses)


@pytest.mark.parametrize("options", [{"margin": 0}, {"margin": -1}, {"margin": NAN}, {"confidence": 95}])
def test_options_out_of_range_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        compare_losses([1.0, 2.0], [1.0, 2.0], **options)


def test_numbers_of_any_kind_and_great_size_are_compared() -> None:
    expected = compare_losses([3.0, 3.25, 3.5], [2.0, 2.25, 2.5])
    for kind in (np.array, torch.tensor, iter, lambda losses: (np.float32(loss) for loss in losses)):
        assert compare_losses(kind([3.0, 3.25, 3.5]), kind([2.0, 2.25, 2.5])) == expected
    assert compare_losses([1e300, -1e308, 1e308], [1e308, 2.0, 1e-300]).status == "not shown"


def test_greater_confidence_gives_wider_intervals() -> None:
    baseline, candidate = draw_losses(4, 8)
    narrow, wide = (compare_losses(baseline, candidate, confidence=level) for level in (0.9, 0.99))
    assert wide.low < narrow.low <= narrow.high < wide.high
    assert wide.confidence == pytest.approx(0.99)


def test_the_package_exports_the_function_and_loads_no_torch() -> None:
    assert harness.evidence.compare_losses is compare_losses
    assert replace(compare_losses([1.0], [1.0]), n=3).n == 3
    assert isinstance(compare_losses([1.0], [1.0]), SeedComparison)
    code = (
        "import sys; from harness.evidence import compare_losses, compare_candidates, SeedPlan; "
        "print({'torch', 'sklearn', 'scipy.stats', 'pandas'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
