"""Minimal pairs during training: how often the model prefers the acceptable sentence."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from harness.core.task import Mean
from harness.data.blimp import MinimalPair
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import TokenData
from harness.models.likelihood import SentenceLikelihood

PAIRS_PER_BATCH = 128  # small enough that several processes can share the pairs


def build_likelihood(
    model: nn.Module, tokenizer: Tokenizer, *, is_masked: bool, batch_tokens: int = 4096
) -> SentenceLikelihood:
    """Return the likelihood of sentences in the context that documents have in training.

    This is `[CLS] sentence [SEP]` for a masked model (without [CLS] if the tokenizer has none), and the end-of-text
    token before the sentence for a causal one.
    """
    opening = () if tokenizer.cls_id is None else (tokenizer.cls_id,)
    if is_masked:
        return SentenceLikelihood(model, opening, (tokenizer.eos_id,), tokenizer.mask_id, batch_tokens)
    return SentenceLikelihood(model, (tokenizer.eos_id, *opening), batch_tokens=batch_tokens)


def compare_pairs(
    likelihood: SentenceLikelihood,
    good: Sequence[Sequence[int]],
    bad: Sequence[Sequence[int]],
    on_progress: Callable[[int], None] | None = None,
) -> list[bool]:
    """Return for each pair whether the good sentence is more likely than the bad one; a tie counts as wrong.

    `on_progress` is called with the number of tokens scored since the last call.
    """
    totals = likelihood([*good, *bad], on_progress)
    is_correct: list[bool] = (totals[: len(good)] > totals[len(good) :]).tolist()
    return is_correct


@dataclass(frozen=True)
class PairBatch:
    """Token ids of good sentences and of the corresponding bad ones."""

    good: list[list[int]]
    bad: list[list[int]]


@dataclass(frozen=True)
class MinimalPairScorer:
    """Minimal pairs as token ids, sorted by length, and the likelihood that scores them."""

    likelihood: SentenceLikelihood
    good: list[list[int]]
    bad: list[list[int]]

    def iter_batches(self) -> Iterator[PairBatch]:
        for start in range(0, len(self.good), PAIRS_PER_BATCH):
            yield PairBatch(self.good[start : start + PAIRS_PER_BATCH], self.bad[start : start + PAIRS_PER_BATCH])

    def compute_accuracy(self, batch: PairBatch) -> Mean:
        hits = sum(compare_pairs(self.likelihood, batch.good, batch.bad))
        return Mean(hits, len(batch.good), "fraction of pairs", hits)


def build_pair_scorer(
    pairs: Sequence[MinimalPair], model: nn.Module, data: TokenData, *, is_masked: bool
) -> MinimalPairScorer | None:
    """Return the scorer of `pairs` for a model trained on `data`, or None if there are no pairs.

    Raises:
        ValueError: If a sentence is longer than the model's positions.
    """
    if not pairs:
        return None
    tokenizer = Tokenizer.load(data.tokenizer_path)
    likelihood = build_likelihood(model, tokenizer, is_masked=is_masked)
    good = tokenizer.encode([pair.good for pair in pairs])
    bad = tokenizer.encode([pair.bad for pair in pairs])
    likelihood.check_lengths([*good, *bad])
    by_length = sorted(zip(good, bad, strict=True), key=lambda pair: (len(pair[0]), len(pair[1])))
    return MinimalPairScorer(likelihood, [pair[0] for pair in by_length], [pair[1] for pair in by_length])
