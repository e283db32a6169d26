"""Builders: a model and its data in, a `Task` out."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from harness.data.tokens import IGNORED, TokenBatch, TokenData, order
from harness.models import positions
from harness.task import Loss, Mean, Metric


def causal_lm(
    *, model: Callable[..., nn.Module], data: Callable[..., TokenData], tokenizer: Any, seed: int, cache_dir: Path
) -> "CausalLM":
    """Next-token prediction; ValueError where the sequences are longer than the model's positions."""
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    network = model(vocab_size=tokens.vocab_size)
    limit = positions(network)
    if limit is not None and tokens.sequence_length > limit:
        raise ValueError(
            f"data.sequence_length {tokens.sequence_length} is longer than the model's {limit} positions; "
            f"use data.sequence_length={limit} or a model with more"
        )
    return CausalLM(network, tokens)


@dataclass
class CausalLM:
    """Predicts each token from those before it. The model sees inputs only, so that no one shifts the labels twice."""

    model: nn.Module
    data: TokenData

    @property
    def constants(self) -> Mapping[str, float]:
        """In nats a token: what a uniform guess and the validation set's own token frequencies would score."""
        return {"ln_vocabulary": math.log(self.data.vocab_size), "unigram_entropy": self.data.unigram_entropy}

    @property
    def dataset(self) -> Mapping[str, str]:
        return {"name": self.data.name, "digest": self.data.digest, "source": self.data.source}

    @property
    def examples(self) -> int:
        return len(self.data.train)

    @property
    def tokens_per_example(self) -> float:
        return self.data.train.tokens_per_row

    def batch(self, position: int, size: int) -> TokenBatch:
        rows = order(position, size, len(self.data.train), self.data.seed, self.data.shuffle)
        return self.data.train.batch(rows)

    def split(self, batch: TokenBatch, size: int) -> list[TokenBatch]:
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def count(self, batch: TokenBatch) -> int:
        return batch.count

    def tokens(self, batch: TokenBatch) -> int:
        return batch.tokens

    def loss(self, batch: TokenBatch) -> Loss:
        """Cross-entropy in nats, summed over the scored tokens."""
        return Loss(self._nats(batch, "sum"), batch.count)

    def validation_batches(self) -> Iterator[TokenBatch]:
        rows = range(len(self.data.val))
        for start in rows[:: self.data.eval_batch_size]:
            yield self.data.val.batch(rows[start : start + self.data.eval_batch_size])

    def score(self, batch: TokenBatch) -> dict[str, Mean]:
        nats = self._nats(batch, "none").cpu().double()  # mps has no float64
        return {"loss": Mean(nats.sum().item(), batch.count, "nats/token", nats.square().sum().item())}

    def report(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Characters and bytes are those of the scored text; an end-of-text token costs nats and has neither."""
        loss = means["loss"]
        return {
            "loss": Metric(loss.value, loss.unit, loss.standard_error),
            "perplexity": Metric(_exp(loss.value), "1/token"),
            "nats_per_character": Metric(loss.sum / self.data.val_characters, "nats/character"),
            "bits_per_byte": Metric(loss.sum / math.log(2) / self.data.val_bytes, "bits/byte"),
            "coverage": Metric(loss.count / self.data.val_scored_tokens, "share of validation tokens"),
        }

    def _nats(self, batch: TokenBatch, reduction: str) -> Tensor:
        scored = (batch.targets.flatten() != IGNORED).nonzero().squeeze(1)
        device = next(self.model.parameters()).device
        batch, scored = batch.to(device), scored.to(device)
        with _projecting_only(scored, self.model.get_output_embeddings()):
            logits = self.model(input_ids=batch.inputs).logits[0]
        return F.cross_entropy(logits.float(), batch.targets.flatten()[scored], reduction=reduction)


@contextmanager
def _projecting_only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """The head, by far the widest layer, projects these positions of the flattened batch and no others."""

    def select(module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0].flatten(0, 1).index_select(0, positions)[None],)

    hook = head.register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
