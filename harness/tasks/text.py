"""Base of all tasks on token streams: batches of rows, and scores at the target positions."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, Self

from torch import Tensor, nn

from harness.core.digests import compute_array_digest, compute_file_digest
from harness.core.task import Mean, Metric
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenData, get_example_indices
from harness.models import is_causal, max_positions
from harness.models.head_projection import compute_logits_at
from harness.tasks.metrics import to_metrics
from harness.tasks.minimal_pairs import MinimalPairScorer, PairBatch


class LanguageModelBuilder(Protocol):
    def __call__(self, *, vocab_size: int) -> nn.Module: ...


class TokenDataBuilder(Protocol):
    def __call__(self, *, tokenizer: Any, seed: int, cache_dir: Path) -> TokenData: ...


@dataclass
class TextTask:
    """A model with token data and, optionally, minimal pairs to score. Subclasses define the loss."""

    model: nn.Module
    data: TokenData
    pairs: MinimalPairScorer | None = field(default=None, kw_only=True)

    @cached_property
    def dataset(self) -> Mapping[str, str]:
        data = self.data
        scored = [] if data.val.is_scored is None else [data.val.is_scored]
        tokenizer = data.tokenizer_path / "tokenizer.json"
        return {
            "name": data.name,
            "digest": data.digest,
            "source": data.source,
            "validation": compute_array_digest(data.val.stream, *scored),
            "validation_size": f"{data.val_bytes} bytes, {data.val_characters} characters",
            **{f"digest.{name}": digest for name, digest in data.split_digests.items()},
            **({"tokenizer": compute_file_digest(tokenizer)[:16]} if tokenizer.is_file() else {}),
        }

    @property
    def files(self) -> Mapping[str, Path]:
        return {"tokenizer": self.data.tokenizer_path}

    @property
    def examples(self) -> int:
        return len(self.data.train)

    @property
    def tokens_per_example(self) -> float:
        return self.data.train.mean_tokens_per_row

    def get_batch(self, position: int, size: int) -> TokenBatch:
        rows = get_example_indices(position, size, len(self.data.train), self.data.seed, self.data.shuffle)
        return self.data.train.make_batch(rows)

    def split_batch(self, batch: TokenBatch, size: int) -> list[TokenBatch]:
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def count_scored(self, batch: TokenBatch) -> int:
        return batch.n_scored

    def count_tokens(self, batch: TokenBatch) -> int:
        return batch.n_tokens

    def validation_batches(self) -> Iterator[Any]:
        rows = range(len(self.data.val))
        for start in rows[:: self.data.eval_batch_size]:
            yield self.get_validation_batch(rows[start : start + self.data.eval_batch_size])
        if self.pairs:
            yield from self.pairs.iter_batches()

    def get_validation_batch(self, rows: range) -> TokenBatch:
        return self.data.val.make_batch(rows)

    def score_batch(self, batch: Any) -> dict[str, Mean]:
        if self.pairs and isinstance(batch, PairBatch):
            return {"blimp": self.pairs.compute_accuracy(batch)}
        return self.score_tokens(batch)

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        """Return the means of one validation batch."""
        raise NotImplementedError

    def compute_logits(self, batch: TokenBatch) -> Tensor:
        """Return the logits at all positions, scored or not, [rows, tokens, vocabulary]."""
        inputs = batch.inputs.to(next(self.model.parameters()).device)
        logits: Tensor = self.model(input_ids=inputs, **self.attention_inputs(batch)).logits
        return logits

    def attention_inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """Return the arguments that restrict attention, besides the inputs."""
        return {}

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Return the means, and of a test split the share of its documents that the training split has too."""
        seen = self.data.duplicates
        unit = f"fraction of {self.data.evaluated} documents that are in the training data too"
        return to_metrics(means) | ({} if seen is None else {"duplicates": Metric(seen, unit)})

    def make_test_task(self) -> Self | None:
        """Return the task with the test split in place of the validation set, without pairs; None without one."""
        data = self.data.with_test_evaluated()
        return None if data is None else replace(self, data=data, pairs=None)


def build_checked_model(model: LanguageModelBuilder, data: TokenData, *, is_masked: bool) -> nn.Module:
    """Build the model for the vocabulary of `data`.

    Raises:
        ValueError: If its attention is causal for a masked task or bidirectional for a causal one, or if sequences are
            longer than its positions.
    """
    network = model(vocab_size=data.vocab_size)
    if is_causal(network) == is_masked:
        raise ValueError(
            "the model sees only the tokens before each position; use a bidirectional one, such as model=hf_masked"
            if is_masked
            else "the model sees the token that it is to predict; use task=masked_lm, or a causal model"
        )
    limit = max_positions(network)
    if limit is not None and data.sequence_length > limit:
        raise ValueError(
            f"data.sequence_length={data.sequence_length} is longer than the model's {limit} positions; "
            f"use data.sequence_length={limit} or a model with more"
        )
    return network


def predict_scored(model: nn.Module, batch: TokenBatch, **model_inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return float32 logits and targets of the scored positions; logits at other positions are not computed."""
    device = next(model.parameters()).device
    targets = batch.targets.flatten()
    scored = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    targets = targets[scored].to(device, non_blocking=True)
    positions, inputs = scored.to(device, non_blocking=True), batch.inputs.to(device, non_blocking=True)
    logits = compute_logits_at(positions, model, input_ids=inputs, **model_inputs)
    return logits.float(), targets
