"""Passages that two sets of token sequences share, long enough that chance and common phrases do not explain them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

MAX_EXAMPLES, MAX_VAL_EXAMPLES = 20_000, 400
CHANCE_BITS = 20  # a passage occurs by chance with a probability of 2**-20 in all of the training data
PHRASE_FACTOR = 2  # how much longer a passage must be than independent pairs of tokens imply, as text has phrases
COMMON_SHARE, MIN_COMMON = 0.02, 20  # passages in more training examples than this are templates
MOSTLY = 0.5  # share of an example's passages
MULTIPLIER = np.uint64(6364136223846793005)


def measure_shared_passages(train: Sequence[Any], val: Sequence[Any]) -> tuple[float | None, int]:
    """Return (share of the validation examples that mostly consist of passages in `train`, length of a passage).

    The share is None if no example is long enough. Passages in many training examples, such as templates, do not count.
    """
    stream, lengths = np.concatenate([np.asarray(each, dtype=np.int64) for each in train]), list(map(len, train))
    length = _choose_length(stream)
    long_enough = [np.asarray(each, dtype=np.int64) for each in val if len(each) > length]
    if not long_enough:
        return None, length
    owners = np.repeat(np.arange(len(lengths)), lengths)
    known = _hash_passages(stream, length)
    is_within = owners[: len(known)] == owners[length - 1 :]
    pairs = np.unique(np.stack([known[is_within], owners[: len(known)][is_within].astype(np.uint64)]), axis=1)
    values, counts = np.unique(pairs[0], return_counts=True)
    values = values[counts <= max(MIN_COMMON, COMMON_SHARE * len(train))]
    shares = [np.isin(_hash_passages(each, length), values).mean() for each in long_enough]
    return float(np.mean([share > MOSTLY for share in shares])), length


def _choose_length(stream: np.ndarray) -> int:
    """Return the length at which a passage is too improbable to occur twice, from the entropy of pairs of tokens."""
    _, singles = np.unique(stream[:-1], return_counts=True)
    _, pairs = np.unique(np.stack([stream[:-1], stream[1:]]), axis=1, return_counts=True)
    entropy = max(0.05, _entropy_bits(pairs) - _entropy_bits(singles))
    return math.ceil(PHRASE_FACTOR * (math.log2(len(stream)) + CHANCE_BITS) / entropy)


def _entropy_bits(counts: np.ndarray) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum())


def _hash_passages(tokens: np.ndarray, length: int) -> np.ndarray:
    """Return a 64-bit hash of each passage of `length` tokens."""
    values = (tokens.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)) * MULTIPLIER
    values ^= values >> np.uint64(29)
    hashes = np.zeros(max(0, len(tokens) - length + 1), dtype=np.uint64)
    for offset in range(length):
        hashes = hashes * MULTIPLIER + values[offset : offset + len(hashes)]
    return hashes
