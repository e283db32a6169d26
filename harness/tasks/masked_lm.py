"""Prediction of masked tokens from what stands on both sides of them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss, Mean, Metric
from harness.data.blimp import MinimalPair
from harness.data.masking import Masking, MaskUnit, build_masking
from harness.data.token_stream import compute_unigram_entropy
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenData, TokenRows, get_example_indices
from harness.tasks.minimal_pairs import build_pair_scorer
from harness.tasks.text import TextTask, build_checked_model, predict_scored

TRAIN_STREAM, VAL_STREAM = 0, 1
"""Two streams of random numbers."""


def build_masked_lm_task(
    *,
    model: Callable[..., nn.Module],
    data: Callable[..., TokenData],
    tokenizer: Any,
    seed: int,
    cache_dir: Path,
    mask: MaskUnit,
    mask_fraction: float,
    within_documents: bool,
    blimp: Sequence[MinimalPair] = (),
) -> "MaskedLM":
    """Masked language modelling, and minimal pairs beside it.

    ValueError where the vocabulary has no mask, sequences are longer than the model's positions, or the model looks
    where it must not or not where it should."""
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    masks = build_masking(Tokenizer.load(tokens.tokenizer_path), mask, mask_fraction, tokens.sequence_length)
    network = build_checked_model(model, tokens, is_masked=True)
    pairs = build_pair_scorer(blimp, network, tokens, is_masked=True)
    task = MaskedLM(network, tokens, masks, within_documents, pairs=pairs)
    _check_document_attention(task)
    return task


@dataclass
class MaskedLM(TextTask):
    """Predicts masked tokens. A row is what stands in the text, `[CLS] document [SEP]` or a stretch of many; attention
    stays within a document if `within_documents`. Training masks follow from the seed and the example's place in the
    endless order, so that every epoch has others; the validation set's are the same in every run."""

    masking: Masking
    within_documents: bool

    @property
    def constants(self) -> Mapping[str, float]:
        """In nats a token: what a uniform guess and the validation text's own token frequencies would score."""
        return {
            "ln_vocabulary": math.log(self.data.vocab_size),
            "unigram_entropy": compute_unigram_entropy(self._get_maskable_val_tokens()),
        }

    def get_batch(self, position: int, size: int) -> TokenBatch:
        rows = get_example_indices(position, size, len(self.data.train), self.data.seed, self.data.shuffle)
        return self._mask_rows(self.data.train, rows, (self.data.seed, TRAIN_STREAM), position)

    def validation_batch(self, rows: range) -> TokenBatch:
        return self._mask_rows(self.data.val, rows, (0, VAL_STREAM), rows.start)

    def count_scored(self, batch: TokenBatch) -> int:
        """Masked tokens; 1 for a batch that by chance has none, whose loss is 0."""
        return max(1, batch.n_scored)

    def compute_loss(self, batch: TokenBatch) -> Loss:
        """Cross-entropy in nats, summed over the masked tokens."""
        logits, targets = self._predict_masked(batch)
        return Loss(F.cross_entropy(logits, targets, reduction="sum"), self.count_scored(batch))

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        logits, targets = self._predict_masked(batch)
        nats = F.cross_entropy(logits, targets, reduction="none").cpu().double()  # mps has no float64
        hits = (logits.argmax(-1) == targets).sum().item()
        return {
            "loss": Mean(nats.sum().item(), batch.n_scored, "nats/masked token", nats.square().sum().item()),
            "accuracy": Mean(hits, batch.n_scored, "fraction of masked tokens", hits),
        }

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """There is no perplexity, and nothing a character: what is masked is guessed from both sides."""
        share = means["loss"].count / len(self._get_maskable_val_tokens())
        return super().compute_metrics(means) | {"coverage": Metric(share, "fraction of validation tokens")}

    def _predict_masked(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        return predict_scored(self.model, batch, **self.attention_inputs(batch))

    def attention_inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """The mask of attention, where one is needed; within documents, padding sees itself alone."""
        device = next(self.model.parameters()).device
        if not self.within_documents:
            is_token = torch.arange(batch.inputs.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
            return {} if is_token.all() else {"attention_mask": is_token.to(device, non_blocking=True)}
        is_end = batch.inputs == self.data.eos_id
        documents = is_end.cumsum(1) - is_end.long()
        if not documents.any():
            return {}
        documents = documents.to(device, non_blocking=True)
        visible = documents[:, :, None] == documents[:, None, :]
        is_of_transformers = hasattr(self.model, "config")  # which take a mask as it is where it has a place for heads
        return {"attention_mask": visible[:, None] if is_of_transformers else visible}

    def _mask_rows(self, rows: TokenRows, chosen: Sequence[int], key: tuple[int, int], first: int) -> TokenBatch:
        tokens, is_scored, lengths = rows.read_rows(chosen)
        tokens, is_scored = tokens[:, 1:], is_scored[:, 1:]
        inputs, is_masked = self.masking(tokens, is_scored, key=key, first_row=first)
        targets = np.where(is_masked, tokens, IGNORE_INDEX)
        return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), lengths, is_masked.sum(1))

    def _get_maskable_val_tokens(self) -> np.ndarray:
        """The tokens of the validation set that may be masked."""
        val = self.data.val
        tokens = val.stream[1:] if val.is_scored is None else val.stream[val.is_scored]
        return tokens[~self.masking.is_special[tokens]]


@torch.no_grad()
def _check_document_attention(task: MaskedLM) -> None:
    """ValueError where attention is to stay within a document and does not."""
    allowed = np.flatnonzero(~task.masking.is_special)
    one, other, end = int(allowed[0]), int(allowed[-1]), task.data.eos_id

    def seen(*tokens: int) -> Tensor:
        batch = TokenBatch(torch.tensor([tokens]), torch.tensor([tokens]), np.array([len(tokens)]), np.array([0]))
        return task.model(input_ids=batch.inputs, **task.attention_inputs(batch)).logits[0, 0]

    def keeps_within() -> bool:
        try:
            return torch.equal(seen(one, end, one), seen(one, end, other))
        except (RuntimeError, ValueError):  # of transformers, for a mask of a shape that they do not take
            return False

    was_training = task.model.training
    task.model.eval()
    if task.within_documents and not keeps_within():
        raise ValueError(
            f"{type(task.model).__name__} does not keep its attention within a document; use "
            "task.within_documents=false, and data.layout=examples for a document a row"
        )
    task.model.train(was_training)
