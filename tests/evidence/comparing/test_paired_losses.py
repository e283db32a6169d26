"""Paired differences of losses of single examples, checked against formulas of scipy and against simulations."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from harness.evidence.comparing.paired_losses import compute_paired_difference, find_mismatch
from harness.evidence.comparing.run_comparison import ComparedRun, compare_histories
from harness.record.example_losses import ExampleLosses
from tests.evidence.histories import make_history


def make_losses(sums: np.ndarray, counts: np.ndarray | None = None) -> ExampleLosses:
    counts = np.ones(len(sums), np.int32) if counts is None else counts
    return ExampleLosses(np.asarray(sums, float), counts, 10, "nats/token", "v" * 16)


def test_examples_of_one_element_give_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(3, 1, 50), rng.normal(3.2, 1, 50)
    found = compute_paired_difference(make_losses(first), make_losses(second))
    interval = stats.ttest_rel(second, first).confidence_interval(0.95)
    assert found.difference == pytest.approx(np.mean(second - first))
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.standard_error == pytest.approx(stats.sem(second - first))
    assert found.n == 50


def test_interval_covers_the_difference_of_examples_of_unequal_length() -> None:
    rng, covered, repeats = np.random.default_rng(1), 0, 2000
    for _ in range(repeats):
        counts = rng.integers(1, 40, 60)
        shift = rng.normal(0.1, 0.05, 60)  # of a whole example: its elements depend on each other
        noise = rng.normal(0, 1, 60) * np.sqrt(counts)
        base = 3.0 * counts
        found = compute_paired_difference(make_losses(base, counts), make_losses(base + shift * counts + noise, counts))
        covered += found.low <= 0.1 <= found.high
    assert 0.93 <= covered / repeats <= 0.97


def test_examples_without_elements_do_not_count_and_too_few_give_nothing() -> None:
    counts = np.array([2, 0, 3])
    found = compute_paired_difference(make_losses([2.0, 0.0, 3.0], counts), make_losses([4.0, 0.0, 6.0], counts))
    assert (found.difference, found.standard_error, found.n) == (1.0, 0.0, 2)
    assert compute_paired_difference(make_losses([1.0]), make_losses([2.0])) is None


def test_other_examples_are_not_paired() -> None:
    losses = make_losses(np.ones(4))
    assert find_mismatch(losses, losses) == ""
    assert "digests" in find_mismatch(losses, replace(losses, validation="w" * 16))
    assert "units" in find_mismatch(losses, replace(losses, unit="bits"))
    assert "lengths" in find_mismatch(losses, make_losses(np.ones(5)))


def test_comparison_pairs_what_both_runs_recorded() -> None:
    one, two = make_losses(np.full(4, 3.0)), make_losses(np.array([2.9, 3.0, 2.8, 2.9]))
    runs = [ComparedRun(make_history("a", [3.0]), examples={"best": one, "final": one}),
            ComparedRun(make_history("b", [2.9]), examples={"best": two})]  # fmt: skip
    best, final = compare_histories(runs).differences
    assert best.paired is not None
    assert best.paired.difference == pytest.approx(-0.1)
    assert best.paired.n == 4
    assert final.paired is None
    runs[1] = ComparedRun(runs[1].history, examples={"best": replace(two, validation="w")})
    found = compare_histories(runs)
    assert found.differences[0].paired is None
    assert "B is not paired with A: the digests of the validation data differ" in found.notes
