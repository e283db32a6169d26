"""When runs first reached a loss: tokens, steps and seconds, as exactly as their evaluations show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.diagnosis.history import SECONDS, History
from harness.diagnosis.plateau_window import drop_non_finite


@dataclass(frozen=True)
class Span:
    """An interval (after, by] in which something happened; `after` is None if nothing was measured before it."""

    after: float | None
    by: float


@dataclass(frozen=True)
class ReachedLoss:
    """When one run first reached a loss. All spans are None if it never did.

    The loss was above it at the evaluation `after`, and at or below it at the evaluation `by`. Tokens and seconds are
    None if they are unknown.
    """

    steps: Span | None = None
    tokens: Span | None = None
    seconds: Span | None = None


@dataclass(frozen=True)
class ReachedThreshold:
    """A validation loss, and when each run reached it."""

    loss: float
    runs: tuple[ReachedLoss, ...]


def find_reached(history: History, loss: float) -> ReachedLoss:
    """Return when a run's validation loss was first at or below `loss`."""
    losses = drop_non_finite(history["val/loss"])
    reached = np.flatnonzero(losses.values <= loss)
    if not len(reached):
        return ReachedLoss()
    index = int(reached[0])
    steps = losses.steps[max(0, index - 1) : index + 1]
    return ReachedLoss(
        _make_span(steps.astype(float), index), _make_span(history.tokens_at(steps), index),
        _make_span(_find_seconds(history, steps), index),
    )  # fmt: skip


def choose_threshold(histories: Sequence[History]) -> float | None:
    """Return the highest of the best losses, rounded up to four digits, so that every run with losses reached it."""
    best = [float(losses.min()) for losses in (drop_non_finite(one["val/loss"]).values for one in histories)
            if len(losses)]  # fmt: skip
    if len(best) < 2:
        return None
    return _round_up(max(best))


def _round_up(value: float) -> float:
    if value == 0:
        return value
    decimals = 3 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    return rounded if rounded >= value else round(rounded + 10.0**-decimals, decimals)


def _make_span(values: np.ndarray | None, index: int) -> Span | None:
    if values is None or not len(values):
        return None
    return Span(float(values[0]) if index else None, float(values[-1]))


def _find_seconds(history: History, steps: np.ndarray) -> np.ndarray | None:
    """Return when these steps were recorded, None if it is unknown."""
    known = history[SECONDS]
    if not len(known) or not np.all(np.isin(steps, known.steps)):
        return None
    return known.values[np.searchsorted(known.steps, steps)]
