"""Minimal pairs beside the loss: how often a model in training finds the acceptable sentence the likelier one."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from harness.core.task import Mean
from harness.data.blimp import MinimalPair
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import TokenData
from harness.models.likelihood import SentenceLikelihood

PAIRS_PER_BATCH = 128
"""In a batch, so that several processes have something to share."""


def build_likelihood(
    model: nn.Module, tokenizer: Tokenizer, *, is_masked: bool, batch_tokens: int = 4096
) -> SentenceLikelihood:
    """The likelihood of sentences as documents of a training stream. A masked model reads `[CLS] document [SEP]` there,
    without the brackets that its tokenizer lacks, and a causal one the document after the end of the one before."""
    opening = () if tokenizer.cls_id is None else (tokenizer.cls_id,)
    if is_masked:
        return SentenceLikelihood(model, opening, (tokenizer.eos_id,), tokenizer.mask_id, batch_tokens)
    return SentenceLikelihood(model, (tokenizer.eos_id, *opening), batch_tokens=batch_tokens)


def compare_pairs(
    likelihood: SentenceLikelihood,
    good: Sequence[Sequence[int]],
    bad: Sequence[Sequence[int]],
    advance: Callable[[int], None] | None = None,
) -> list[bool]:
    """Of each pair, whether the good sentence is the likelier one; a tie is none."""
    totals = likelihood([*good, *bad], advance)
    return (totals[: len(good)] > totals[len(good) :]).tolist()


@dataclass(frozen=True)
class PairBatch:
    """The token ids of good sentences, and of the bad ones in the same order."""

    good: list[list[int]]
    bad: list[list[int]]


@dataclass(frozen=True)
class MinimalPairScorer:
    """Pairs by length, to be scored by `likelihood`."""

    likelihood: SentenceLikelihood
    good: list[list[int]]
    bad: list[list[int]]

    def iter_batches(self) -> Iterator[PairBatch]:
        for start in range(0, len(self.good), PAIRS_PER_BATCH):
            yield PairBatch(self.good[start : start + PAIRS_PER_BATCH], self.bad[start : start + PAIRS_PER_BATCH])

    def score_batch(self, batch: PairBatch) -> Mean:
        hits = sum(compare_pairs(self.likelihood, batch.good, batch.bad))
        return Mean(hits, len(batch.good), "fraction of pairs", hits)


def build_pair_scorer(
    pairs: Sequence[MinimalPair], model: nn.Module, data: TokenData, *, is_masked: bool
) -> MinimalPairScorer | None:
    """`pairs` for a model that is trained on `data`, None where there are none; ValueError where a sentence is longer
    than the model's positions."""
    if not pairs:
        return None
    tokenizer = Tokenizer.load(data.tokenizer_path)
    likelihood = build_likelihood(model, tokenizer, is_masked=is_masked)
    good, bad = (
        tokenizer.encode(sentences) for sentences in ([pair.good for pair in pairs], [pair.bad for pair in pairs])
    )
    likelihood.check_lengths([*good, *bad])
    order = sorted(range(len(pairs)), key=lambda at: (len(good[at]), len(bad[at])))
    return MinimalPairScorer(likelihood, [good[at] for at in order], [bad[at] for at in order])
