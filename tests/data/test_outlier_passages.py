"""Outlying windows in a token stream."""

import numpy as np
import pytest

from harness.data.outlier_passages import (
    MIN_WINDOWS,
    WINDOW_SIZE,
    compute_entropies,
    compute_surprisals,
    find_outlier_passages,
)


def stream(length: int) -> np.ndarray:
    common = 1 / np.arange(1, 1001)
    return np.random.default_rng(0).choice(1000, length, p=common / common.sum())


def test_entropy_and_surprisal_values() -> None:
    windows = np.array([[0, 1, 2, 3], [0, 0, 0, 0]])
    assert compute_entropies(windows) == pytest.approx([np.log(4), 0])
    shares = np.array([5, 1, 1, 1]) / 8
    assert compute_surprisals(windows) == pytest.approx([-np.log(shares).mean(), -np.log(5 / 8)])


def test_repeated_and_random_tokens_are_found() -> None:
    tokens = stream(200 * WINDOW_SIZE)
    tokens[40 * WINDOW_SIZE : 43 * WINDOW_SIZE] = 7
    tokens[90 * WINDOW_SIZE : 91 * WINDOW_SIZE] = np.random.default_rng(1).integers(0, 1000, WINDOW_SIZE)
    passages = {
        (passage.start // WINDOW_SIZE, passage.end // WINDOW_SIZE): passage for passage in find_outlier_passages(tokens)
    }
    assert {place: passage.kind for place, passage in passages.items()} == {(40, 43): "entropy", (90, 91): "surprisal"}
    assert passages[40, 43].value == 0 < passages[40, 43].median


def test_no_outliers_in_ordinary_constant_or_short_streams() -> None:
    assert find_outlier_passages(stream(1000 * WINDOW_SIZE)) == []
    assert find_outlier_passages(np.zeros(100 * WINDOW_SIZE, np.uint16)) == []
    assert find_outlier_passages(stream((MIN_WINDOWS - 1) * WINDOW_SIZE)) == []


def test_long_streams_are_subsampled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.outlier_passages.MAX_WINDOWS", 50)
    tokens = stream(200 * WINDOW_SIZE)
    tokens[40 * WINDOW_SIZE : 60 * WINDOW_SIZE] = 7
    [passage] = find_outlier_passages(tokens)
    assert (passage.start, passage.end) == (40 * WINDOW_SIZE, 60 * WINDOW_SIZE)
