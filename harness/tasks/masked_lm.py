"""Masked language modelling: prediction of masked tokens from both sides."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.state import eval_mode
from harness.core.task import Loss, Mean, Metric
from harness.data.blimp import MinimalPair
from harness.data.masking import Masking, MaskUnit, build_masking
from harness.data.token_stream import compute_unigram_entropy
from harness.data.tokenizers import Tokenizer
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenRows, get_example_indices
from harness.tasks.metrics import mean_of_values
from harness.tasks.minimal_pairs import build_pair_scorer
from harness.tasks.text import LanguageModelBuilder, TextTask, TokenDataBuilder, build_checked_model, predict_scored

TRAIN_STREAM, VAL_STREAM = 0, 1  # of random numbers


def build_masked_lm_task(
    *,
    model: LanguageModelBuilder,
    data: TokenDataBuilder,
    tokenizer: Any,
    seed: int,
    cache_dir: Path,
    mask: MaskUnit,
    mask_fraction: float,
    within_documents: bool,
    blimp: Sequence[MinimalPair] = (),
) -> "MaskedLM":
    """Build masked language modelling with `model` on `data`; every evaluation also scores the pairs of `blimp`.

    Raises:
        ValueError: If the vocabulary has no mask token, the model is causal or has too few positions, or it ignores the
            attention mask that keeps attention within documents.
    """
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    masking = build_masking(Tokenizer.load(tokens.tokenizer_path), mask, mask_fraction, tokens.sequence_length)
    network = build_checked_model(model, tokens, is_masked=True)
    pairs = build_pair_scorer(blimp, network, tokens, is_masked=True)
    task = MaskedLM(network, tokens, masking, within_documents, pairs=pairs)
    if within_documents:
        _check_document_attention(task)
    return task


@dataclass
class MaskedLM(TextTask):
    """Predict masked tokens.

    A row is `[CLS] document [SEP]` or a section of many documents; with `within_documents` attention does not cross
    documents. Training masks depend on the seed and the example's position in the endless order, so every epoch has
    other masks. Validation masks are the same in every run.
    """

    masking: Masking
    within_documents: bool

    @property
    def constants(self) -> Mapping[str, float]:
        """Loss of a uniform guess and of the validation text's token frequencies, in nats/token."""
        entropy = compute_unigram_entropy(self._get_maskable_val_tokens())
        return {"ln_vocabulary": math.log(self.data.vocab_size), "unigram_entropy": entropy}

    def get_batch(self, position: int, size: int) -> TokenBatch:
        rows = get_example_indices(position, size, len(self.data.train), self.data.seed, self.data.shuffle)
        return self._mask_rows(self.data.train, rows, (self.data.seed, TRAIN_STREAM), position)

    def get_validation_batch(self, rows: range) -> TokenBatch:
        return self._mask_rows(self.data.val, rows, (0, VAL_STREAM), rows.start)

    def count_scored(self, batch: TokenBatch) -> int:
        """Return the number of masked tokens, but 1 if there are none: the loss of such a batch is 0."""
        return max(1, batch.n_scored)

    def compute_loss(self, batch: TokenBatch) -> Loss:
        """Return the cross-entropy in nats, summed over the masked tokens."""
        logits, targets = predict_scored(self.model, batch, **self.attention_inputs(batch))
        return Loss(F.cross_entropy(logits, targets, reduction="sum"), self.count_scored(batch))

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        logits, targets = predict_scored(self.model, batch, **self.attention_inputs(batch))
        nats = F.cross_entropy(logits, targets, reduction="none")
        return {
            "loss": mean_of_values(nats, "nats/masked token", batch.scored_per_row),
            "accuracy": mean_of_values(logits.argmax(-1) == targets, "fraction of masked tokens"),
        }

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Return the metrics of an evaluation; a masked model has no perplexity and no loss per character."""
        coverage = means["loss"].count / len(self._get_maskable_val_tokens())
        return super().compute_metrics(means) | {
            "coverage": Metric(coverage, f"fraction of {self.data.evaluated} tokens")
        }

    def attention_inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Return the attention mask, or nothing if every token may see every other.

        With `within_documents` each padding token attends to itself only.
        """
        device = next(self.model.parameters()).device
        if not self.within_documents:
            is_token = torch.arange(batch.inputs.shape[1]) < torch.from_numpy(batch.lengths)[:, None]
            return {} if is_token.all() else {"attention_mask": is_token.to(device, non_blocking=True)}
        is_end = batch.inputs == self.data.eos_id
        documents = is_end.cumsum(1) - is_end.long()
        if not documents.any():
            return {}
        documents = documents.to(device, non_blocking=True)
        is_visible = documents[:, :, None] == documents[:, None, :]
        is_hf_model = hasattr(self.model, "config")  # these accept [rows, tokens, tokens] only with a head dimension
        return {"attention_mask": is_visible[:, None] if is_hf_model else is_visible}

    def _mask_rows(self, split: TokenRows, rows: Sequence[int], key: tuple[int, int], first: int) -> TokenBatch:
        tokens, is_scored, lengths = split.read_rows(rows)
        tokens, is_scored = tokens[:, 1:], is_scored[:, 1:]
        inputs, is_masked = self.masking(tokens, is_scored, key=key, first_row=first)
        targets = np.where(is_masked, tokens, IGNORE_INDEX)
        return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), lengths, is_masked.sum(1))

    def _get_maskable_val_tokens(self) -> np.ndarray:
        val = self.data.val
        tokens = val.stream[1:] if val.is_scored is None else val.stream[val.is_scored]
        return tokens[~self.masking.is_special[tokens]]


@torch.no_grad()
def _check_document_attention(task: MaskedLM) -> None:
    """Raise ValueError if a token of the next document changes the logits of this one."""
    allowed = np.flatnonzero(~task.masking.is_special)
    token, other, end = int(allowed[0]), int(allowed[-1]), task.data.eos_id

    def first_logits(*tokens: int) -> Tensor:
        ids = torch.tensor([tokens])
        return task.compute_logits(TokenBatch(ids, ids, np.array([len(tokens)]), np.array([0])))[0, 0]

    try:
        with eval_mode(task.model):
            is_within = torch.equal(first_logits(token, end, token), first_logits(token, end, other))
    except (RuntimeError, ValueError):  # transformers: the model does not accept a mask of this shape
        is_within = False
    if not is_within:
        raise ValueError(
            f"{type(task.model).__name__} does not keep attention within documents; use "
            "task.within_documents=false, with data.layout=examples for one document per row"
        )
