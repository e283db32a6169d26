"""Windows that stand out in a stream of tokens."""

import numpy as np
import pytest

from harness.data.outlier_passages import FEWEST_WINDOWS, WINDOW, entropies, surprisals, unlike_the_rest


def stream(length: int) -> np.ndarray:
    common = 1 / np.arange(1, 1001)
    return np.random.default_rng(0).choice(1000, length, p=common / common.sum())


def test_entropy_and_surprisal_are_in_nats_a_token() -> None:
    windows = np.array([[0, 1, 2, 3], [0, 0, 0, 0]])
    assert entropies(windows) == pytest.approx([np.log(4), 0])
    shares = np.array([5, 1, 1, 1]) / 8
    assert surprisals(windows) == pytest.approx([-np.log(shares).mean(), -np.log(5 / 8)])


def test_a_word_repeated_and_tokens_at_random_are_found_where_they_stand() -> None:
    tokens = stream(200 * WINDOW)
    tokens[40 * WINDOW : 43 * WINDOW] = 7
    tokens[90 * WINDOW : 91 * WINDOW] = np.random.default_rng(1).integers(0, 1000, WINDOW)
    found = {(passage.start // WINDOW, passage.end // WINDOW): passage for passage in unlike_the_rest(tokens)}
    assert {place: passage.kind for place, passage in found.items()} == {(40, 43): "entropy", (90, 91): "surprisal"}
    assert found[40, 43].seen == 0 < found[40, 43].usual


def test_ordinary_text_has_none_and_neither_has_a_constant_stream_or_a_short_one() -> None:
    assert unlike_the_rest(stream(1000 * WINDOW)) == []
    assert unlike_the_rest(np.zeros(100 * WINDOW, np.uint16)) == []
    assert unlike_the_rest(stream((FEWEST_WINDOWS - 1) * WINDOW)) == []


def test_of_a_very_long_stream_some_windows_are_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.data.outlier_passages.MOST_WINDOWS", 50)
    tokens = stream(200 * WINDOW)
    tokens[40 * WINDOW : 60 * WINDOW] = 7
    [found] = unlike_the_rest(tokens)
    assert (found.start, found.end) == (40 * WINDOW, 60 * WINDOW)
