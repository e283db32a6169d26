"""Losses of a guess that ignores its input: the logarithm of the number of classes, or of tokens of a vocabulary."""

import math

import numpy as np

from harness.diagnosis.history import Series

CLASSES = (2, 3, 4, 5, 10, 20, 50, 100, 200, 1000)
VOCABULARIES = (30522, 32000, 32128, 50257, 50265, 50304, 65024, 100277, 128256, 151936, 256000)
TOLERANCE = 0.002  # of the loss: the rows of a uniform guess hardly differ
MIN_ROWS = 5  # that are at such a loss, in the second half of a curve


def find_known_guess(values: np.ndarray) -> int | None:
    """Return the number of classes or tokens that a uniform guess among has this loss in all rows; None if none has."""
    if not len(values):
        return None
    counts = [count for count in (*CLASSES, *VOCABULARIES) if is_at_guess(values, count)]
    return min(counts, key=lambda count: abs(math.log(count) - float(np.median(values))), default=None)


def find_final_guess(losses: Series) -> int | None:
    """Return the same of the second half of a curve, which fell no lower before, or by little to there."""
    values = losses.values
    last = values[len(values) // 2 :]
    count = find_known_guess(last) if len(last) >= MIN_ROWS else None
    is_lowest = count is not None and values.min() >= math.log(count) * (1 - TOLERANCE)
    return count if is_lowest else None


def is_at_guess(values: np.ndarray, count: int) -> bool:
    return bool((np.abs(values - math.log(count)) <= TOLERANCE * math.log(count)).all())
