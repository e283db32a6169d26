"""Where a stream is unlike the rest of it: windows whose tokens are far rarer, or far more alike, than is usual."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW_SIZE = 512
"""Tokens that are judged together."""
MAX_WINDOWS = 40_000
"""Of longer streams so many are judged, evenly spaced."""
MIN_WINDOWS = 20
"""Below these nothing is usual."""
MAX_DEVIATIONS = 8.0
"""From the median, in robust standard deviations (1.4826 median absolute ones): in real books, questions and headlines
beyond it are tables of contents in capitals, drawn tables, other scripts and a word repeated for lines."""
MIN_SURPRISAL_RATIO, MAX_ENTROPY_RATIO = 1.4, 0.5
"""And times the median at least, of surprisal; at most, of entropy."""

OutlierKind = Literal["surprisal", "entropy"]


@dataclass(frozen=True)
class OutlierPassage:
    """The tokens from position `start` to before `end`; their `kind` is `seen` nats a token, `usual` the median."""

    start: int
    end: int
    kind: OutlierKind
    value: float
    median: float


def find_outlier_passages(tokens: np.ndarray, window: int = WINDOW_SIZE) -> list[OutlierPassage]:
    """The passages that stand out, in order; windows next to each other are one. None in a stream of few windows."""
    count = len(tokens) // window
    every = max(1, math.ceil(count / MAX_WINDOWS))
    windows = tokens[: count * window].reshape(count, window)[::every]
    return list(_join_windows(windows, window * every)) if len(windows) >= MIN_WINDOWS else []


def find_outlier_windows(windows: np.ndarray) -> tuple[dict[OutlierKind, np.ndarray], dict[OutlierKind, np.ndarray]]:
    """(which windows stand out, their values) by kind, for windows of token ids, [windows, tokens]."""
    values: dict[OutlierKind, np.ndarray] = {
        "entropy": compute_entropies(windows),
        "surprisal": compute_surprisals(windows),
    }
    lower, _ = _compute_robust_limits(values["entropy"])
    _, upper = _compute_robust_limits(values["surprisal"])
    entropy, surprisal = (np.median(of) for of in values.values())
    is_out: dict[OutlierKind, np.ndarray] = {
        "entropy": values["entropy"] < min(lower, MAX_ENTROPY_RATIO * entropy),
        "surprisal": values["surprisal"] > max(upper, MIN_SURPRISAL_RATIO * surprisal),
    }
    return is_out, values


def compute_surprisals(windows: np.ndarray) -> np.ndarray:
    """The mean over each window of minus the log of its tokens' share in all windows, in nats."""
    shares = np.bincount(windows.ravel()) / windows.size
    nats = np.zeros(len(shares))
    nats[shares > 0] = -np.log(shares[shares > 0])
    return nats[windows].mean(1)


def compute_entropies(windows: np.ndarray) -> np.ndarray:
    """Of the tokens within each window, in nats."""
    count, size = windows.shape
    ordered = np.sort(windows, axis=1)
    is_first = np.ones(ordered.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(is_first)
    times = np.diff(np.append(starts, windows.size))
    return np.log(size) - np.bincount(starts // size, weights=times * np.log(times), minlength=count) / size


def _compute_robust_limits(values: np.ndarray) -> tuple[float, float]:
    middle = np.median(values)
    reach = MAX_DEVIATIONS * 1.4826 * np.median(np.abs(values - middle))
    return middle - reach, middle + reach


def _join_windows(windows: np.ndarray, stride: int) -> Iterator[OutlierPassage]:
    is_out, values = find_outlier_windows(windows)
    for kind, out in is_out.items():
        usual = float(np.median(values[kind]))
        edges = np.flatnonzero(np.diff(np.r_[False, out, False]))
        for first, last in edges.reshape(-1, 2):
            seen = float(values[kind][first:last].mean())
            yield OutlierPassage(int(first) * stride, int(last) * stride, kind, seen, usual)
