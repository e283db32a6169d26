"""Where a stream is unlike the rest of it: windows whose tokens are far rarer, or far more alike, than is usual."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

WINDOW = 512
"""Tokens that are judged together."""
MOST_WINDOWS = 40_000
"""Of longer streams so many are judged, evenly spaced."""
FEWEST_WINDOWS = 20
"""Below these nothing is usual."""
DEVIATIONS = 8.0
"""From the median, in robust standard deviations (1.4826 median absolute ones): in real books, questions and headlines
beyond it are tables of contents in capitals, drawn tables, other scripts and a word repeated for lines."""
RARE, ALIKE = 1.4, 0.5
"""And times the median at least, of surprisal; at most, of entropy."""

Kind = Literal["surprisal", "entropy"]


@dataclass(frozen=True)
class Passage:
    """The tokens from position `start` to before `end`; their `kind` is `seen` nats a token, `usual` the median."""

    start: int
    end: int
    kind: Kind
    seen: float
    usual: float


def unlike_the_rest(tokens: np.ndarray, window: int = WINDOW) -> list[Passage]:
    """The passages that stand out, in order; windows next to each other are one. None in a stream of few windows."""
    count = len(tokens) // window
    every = max(1, math.ceil(count / MOST_WINDOWS))
    windows = tokens[: count * window].reshape(count, window)[::every]
    return list(_joined(windows, window * every)) if len(windows) >= FEWEST_WINDOWS else []


def outlying(windows: np.ndarray) -> tuple[dict[Kind, np.ndarray], dict[Kind, np.ndarray]]:
    """(which windows stand out, their values) by kind, for windows of token ids, [windows, tokens]."""
    values: dict[Kind, np.ndarray] = {"entropy": entropies(windows), "surprisal": surprisals(windows)}
    lower, _ = _limits(values["entropy"])
    _, upper = _limits(values["surprisal"])
    entropy, surprisal = (np.median(of) for of in values.values())
    is_out: dict[Kind, np.ndarray] = {
        "entropy": values["entropy"] < min(lower, ALIKE * entropy),
        "surprisal": values["surprisal"] > max(upper, RARE * surprisal),
    }
    return is_out, values


def surprisals(windows: np.ndarray) -> np.ndarray:
    """The mean over each window of minus the log of its tokens' share in all windows, in nats."""
    shares = np.bincount(windows.ravel()) / windows.size
    nats = np.zeros(len(shares))
    nats[shares > 0] = -np.log(shares[shares > 0])
    return nats[windows].mean(1)


def entropies(windows: np.ndarray) -> np.ndarray:
    """Of the tokens within each window, in nats."""
    count, size = windows.shape
    ordered = np.sort(windows, axis=1)
    is_first = np.ones(ordered.shape, bool)
    is_first[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    starts = np.flatnonzero(is_first)
    times = np.diff(np.append(starts, windows.size))
    return np.log(size) - np.bincount(starts // size, weights=times * np.log(times), minlength=count) / size


def _limits(values: np.ndarray) -> tuple[float, float]:
    middle = np.median(values)
    reach = DEVIATIONS * 1.4826 * np.median(np.abs(values - middle))
    return middle - reach, middle + reach


def _joined(windows: np.ndarray, stride: int) -> Iterator[Passage]:
    is_out, values = outlying(windows)
    for kind, out in is_out.items():
        usual = float(np.median(values[kind]))
        edges = np.flatnonzero(np.diff(np.r_[False, out, False]))
        for first, last in edges.reshape(-1, 2):
            seen = float(values[kind][first:last].mean())
            yield Passage(int(first) * stride, int(last) * stride, kind, seen, usual)
