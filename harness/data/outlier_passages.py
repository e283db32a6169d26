"""Find passages of a token stream that differ from the rest: their tokens are far rarer or far more repetitive."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW_SIZE = 512  # tokens that are judged together
MAX_WINDOWS = 40_000  # judged in longer streams, evenly spaced
MIN_WINDOWS = 20  # fewer give no reliable median
# Distance from the median in robust standard deviations (1.4826 x median absolute deviation). In real books, Q&A and
# headlines, windows beyond it are tables of contents in capitals, drawn tables, other scripts and repeated words.
MAX_DEVIATIONS = 8.0
MIN_SURPRISAL_RATIO = 1.4  # to the median, also needed for an outlier of surprisal
MAX_ENTROPY_RATIO = 0.5  # to the median, also needed for an outlier of entropy

OutlierKind = Literal["surprisal", "entropy"]


@dataclass(frozen=True)
class OutlierPassage:
    """Tokens from `start` to before `end`, whose mean surprisal or entropy is an outlier. In nats per token."""

    start: int
    end: int
    kind: OutlierKind
    value: float
    median: float


def find_outlier_passages(tokens: np.ndarray, window: int = WINDOW_SIZE) -> list[OutlierPassage]:
    """Return the outlying passages of a stream, none if it is too short. Adjacent windows form one passage."""
    count = len(tokens) // window
    every = max(1, math.ceil(count / MAX_WINDOWS))
    windows = tokens[: count * window].reshape(count, window)[::every]
    return list(_join_windows(windows, window * every)) if len(windows) >= MIN_WINDOWS else []


def find_outlier_windows(windows: np.ndarray) -> tuple[dict[OutlierKind, np.ndarray], dict[OutlierKind, np.ndarray]]:
    """Return boolean masks of outlying windows and the values of all windows, by kind.

    `windows` are token ids, [windows, tokens].
    """
    entropy, surprisal = compute_entropies(windows), compute_surprisals(windows)
    lowest = min(np.median(entropy) - _compute_reach(entropy), MAX_ENTROPY_RATIO * np.median(entropy))
    highest = max(np.median(surprisal) + _compute_reach(surprisal), MIN_SURPRISAL_RATIO * np.median(surprisal))
    is_outlier: dict[OutlierKind, np.ndarray] = {"entropy": entropy < lowest, "surprisal": surprisal > highest}
    return is_outlier, {"entropy": entropy, "surprisal": surprisal}


def compute_surprisals(windows: np.ndarray) -> np.ndarray:
    """Return the mean of -log p over each window in nats; p is a token's frequency in all windows."""
    shares = np.bincount(windows.ravel()) / windows.size
    nats = np.zeros(len(shares))
    nats[shares > 0] = -np.log(shares[shares > 0])
    surprisals: np.ndarray = nats[windows].mean(1)
    return surprisals


def compute_entropies(windows: np.ndarray) -> np.ndarray:
    """Return the entropy of the token frequencies within each window, in nats."""
    count, size = windows.shape
    ordered = np.sort(windows, axis=1)
    is_first = np.ones(ordered.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(is_first)
    times = np.diff(np.append(starts, windows.size))
    entropies: np.ndarray = (
        np.log(size) - np.bincount(starts // size, weights=times * np.log(times), minlength=count) / size
    )
    return entropies


def _compute_reach(values: np.ndarray) -> float:
    return float(MAX_DEVIATIONS * 1.4826 * np.median(np.abs(values - np.median(values))))


def _join_windows(windows: np.ndarray, stride: int) -> Iterator[OutlierPassage]:
    is_outlier, values = find_outlier_windows(windows)
    for kind, mask in is_outlier.items():
        median = float(np.median(values[kind]))
        edges = np.flatnonzero(np.diff(np.r_[False, mask, False]))
        for first, last in edges.reshape(-1, 2):
            value = float(values[kind][first:last].mean())
            yield OutlierPassage(int(first) * stride, int(last) * stride, kind, value, median)
