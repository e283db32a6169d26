"""Null distributions against scipy and against all permutations."""

import itertools

import numpy as np
import pytest
from scipy import stats

from harness.evidence.statistics import rank_tests
from harness.evidence.statistics.rank_tests import count_critical, mann_whitney_tail, signed_rank_tail


@pytest.mark.parametrize(("n_baseline", "n_candidate"), [(1, 4), (3, 3), (4, 6), (10, 10), (5, 20)])
def test_mann_whitney_agrees_with_scipy(n_baseline: int, n_candidate: int) -> None:
    rng = np.random.default_rng(0)
    baseline, candidate = rng.normal(size=n_baseline), rng.normal(size=n_candidate)
    counted = int((candidate[:, None] > baseline).sum())
    expected = stats.mannwhitneyu(candidate, baseline, alternative="less", method="exact")
    assert counted == expected.statistic
    assert mann_whitney_tail(n_baseline, n_candidate)[counted] == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("n_pairs", [1, 3, 6, 12, 30])
def test_signed_ranks_agree_with_scipy(n_pairs: int) -> None:
    differences = np.random.default_rng(n_pairs).normal(size=n_pairs)
    first, second = np.triu_indices(n_pairs)
    counted = int((differences[first] + differences[second] > 0).sum())
    expected = stats.wilcoxon(differences, alternative="less", method="exact")
    assert counted == expected.statistic
    assert signed_rank_tail(n_pairs)[counted] == pytest.approx(expected.pvalue)


def test_mann_whitney_counts_all_orders() -> None:
    counts = [
        sum(a > b for a in chosen for b in set(range(7)) - {*chosen}) for chosen in itertools.combinations(range(7), 3)
    ]
    assert mann_whitney_tail(4, 3) == pytest.approx([np.mean(np.array(counts) <= u) for u in range(13)])


def test_large_samples_are_approximated(monkeypatch) -> None:
    exact = mann_whitney_tail(25, 25), signed_rank_tail(100)
    monkeypatch.setattr(rank_tests, "LARGEST_EXACT_GROUP", 24)
    monkeypatch.setattr(rank_tests, "LARGEST_EXACT_PAIRS", 99)
    approximate = mann_whitney_tail.__wrapped__(25, 25), signed_rank_tail.__wrapped__(100)
    for one, other in zip(exact, approximate, strict=True):
        assert np.abs(one - other).max() < 2e-3
    assert len(mann_whitney_tail(26, 400)) == 26 * 400 + 1


def test_critical_counts() -> None:
    assert count_critical(mann_whitney_tail(2, 2), 0.05) == 0
    assert count_critical(mann_whitney_tail(3, 3), 0.05) == 1  # one order of 20, exactly 5%
    assert count_critical(signed_rank_tail(4), 0.05) == 0
    assert count_critical(signed_rank_tail(5), 0.05) == 1
