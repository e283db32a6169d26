"""Exact null distributions of the two rank tests: Mann-Whitney (two groups) and Wilcoxon's signed ranks (pairs).

Sources: Mann & Whitney 1947; Wilcoxon 1945; intervals: Hodges & Lehmann 1963, Moses 1965.
"""

from functools import lru_cache
from math import sqrt

import numpy as np
from scipy.special import ndtr

LARGEST_EXACT_GROUP = 25
LARGEST_EXACT_PAIRS = 100


@lru_cache(maxsize=256)
def mann_whitney_tail(n_baseline: int, n_candidate: int) -> np.ndarray:
    """Return P(U <= u) for u = 0 ... n_baseline * n_candidate, when both groups have one distribution.

    U counts the pairs in which the candidate has the greater loss. A test that counts ties as the less
    favorable outcome rejects less often, so it stays valid. Above 25 a group: normal approximation.
    """
    product = n_baseline * n_candidate
    if max(n_baseline, n_candidate) > LARGEST_EXACT_GROUP:
        return _approximate_tail(product, product * (n_baseline + n_candidate + 1) / 12)
    # counts[m][u]: orders of n baseline and m candidate losses with U = u; the greatest is of either group
    counts = [np.ones(1) for _ in range(n_candidate + 1)]
    for n in range(1, n_baseline + 1):
        for m in range(1, n_candidate + 1):
            both = np.zeros(n * m + 1)
            both[: len(counts[m])] += counts[m]
            both[n : n + len(counts[m - 1])] += counts[m - 1]
            counts[m] = both
    return _to_tail(counts[n_candidate])


@lru_cache(maxsize=256)
def signed_rank_tail(n_pairs: int) -> np.ndarray:
    """Return P(W <= w) for w = 0 ... n(n + 1)/2, when differences are symmetric about zero.

    W counts the averages of two differences, each with itself included, that are above zero; it equals the sum of the
    ranks of the positive differences (Tukey 1949). Above 100 pairs: normal approximation.
    """
    total = n_pairs * (n_pairs + 1) // 2
    if n_pairs > LARGEST_EXACT_PAIRS:
        return _approximate_tail(total, total * (2 * n_pairs + 1) / 12)
    counts = np.ones(1)
    for rank in range(1, n_pairs + 1):
        counts = np.concatenate([counts, np.zeros(rank)]) + np.concatenate([np.zeros(rank), counts])
    return _to_tail(counts)


def count_critical(tail: np.ndarray, alpha: float) -> int:
    """Return how many of the smallest counts a one-sided test at `alpha` rejects; 0 if the samples are too small."""
    return int(np.searchsorted(tail, alpha * (1 + 1e-9), side="right"))


def _to_tail(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts) / counts.sum()


def _approximate_tail(maximum: int, variance: float) -> np.ndarray:
    return ndtr((np.arange(maximum + 1) + 0.5 - maximum / 2) / sqrt(variance))
