"""Differences of two losses with their errors."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit  # much cheaper to import than scipy.stats

from harness.record.example_losses import ExampleLosses

CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Difference of the mean losses of two models on the same examples, with its standard error and 95% interval."""

    difference: float
    standard_error: float
    low: float
    high: float
    n: int


def find_mismatch(first: ExampleLosses, second: ExampleLosses) -> str:
    """Return why two sets of losses are not those of the same examples; empty if they are."""
    if first.validation != second.validation:
        return "the digests of the validation data differ"
    if first.unit != second.unit:
        return f"the units differ: {first.unit}, {second.unit}"
    return "" if np.array_equal(first.counts, second.counts) else "the examples have other lengths"


def compute_paired_difference(first: ExampleLosses, second: ExampleLosses) -> PairedDifference | None:
    """Return the mean loss of `second` minus that of `first`, over all scored elements; None for fewer than 2 examples.

    Elements of an example depend on each other, so the error is that of a ratio of sums over independent examples
    (Cochran, Sampling Techniques, 1977, section 6.4); the interval is Student's with n - 1 degrees of freedom.
    """
    is_scored = first.counts > 0
    counts = first.counts[is_scored].astype(float)
    differences = (second.sums - first.sums)[is_scored]
    n = len(counts)
    if n < 2:
        return None
    mean = float(differences.sum() / counts.sum())
    residuals = differences - mean * counts
    error = math.sqrt(n / (n - 1) * float((residuals**2).sum())) / float(counts.sum())
    reach = error * float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return PairedDifference(mean, error, mean - reach, mean + reach, n)
