"""What every task on a token stream shares: rows in, batches out, scores where a target stands."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn

from harness.core.task import Mean, Metric
from harness.data.tokens import IGNORE_INDEX, TokenBatch, TokenData, get_example_indices
from harness.models import is_causal, max_positions
from harness.models.head_projection import find_output_head, project_only
from harness.tasks.minimal_pairs import MinimalPairScorer, PairBatch


@dataclass
class TextTask:
    """The data side of a task: what it learns from a batch is for its kind to say."""

    model: nn.Module
    data: TokenData
    pairs: MinimalPairScorer | None = field(default=None, kw_only=True)

    @property
    def dataset(self) -> Mapping[str, str]:
        return {"name": self.data.name, "digest": self.data.digest, "source": self.data.source}

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

    def validation_batches(self) -> Iterator[TokenBatch | PairBatch]:
        rows = range(len(self.data.val))
        for start in rows[:: self.data.eval_batch_size]:
            yield self.validation_batch(rows[start : start + self.data.eval_batch_size])
        if self.pairs:
            yield from self.pairs.iter_batches()

    def validation_batch(self, rows: range) -> TokenBatch:
        return self.data.val.make_batch(rows)

    def score_batch(self, batch: TokenBatch | PairBatch) -> dict[str, Mean]:
        return {"blimp": self.pairs.score_batch(batch)} if isinstance(batch, PairBatch) else self.score_tokens(batch)

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        """One batch's means, float64 sums."""
        raise NotImplementedError

    def compute_logits(self, batch: TokenBatch) -> Tensor:
        """[rows, tokens, vocabulary], of scored positions and of all others, from what the loss sees."""
        return self.model(
            input_ids=batch.inputs.to(next(self.model.parameters()).device), **self.attention_inputs(batch)
        ).logits

    def attention_inputs(self, batch: TokenBatch) -> dict[str, Tensor]:
        """What the model is given beside the inputs, so that it looks where it is meant to."""
        return {}

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        return {name: Metric(mean.value, mean.unit, mean.standard_error) for name, mean in means.items()}


def build_checked_model(model: Callable[..., nn.Module], data: TokenData, *, is_masked: bool) -> nn.Module:
    """The model for the vocabulary of `data`; ValueError where it sees what follows a token and is not to, or is to and
    does not, and where the sequences are longer than its positions."""
    network = model(vocab_size=data.vocab_size)
    if is_causal(network) == is_masked:
        raise ValueError(
            "the model sees only what stands before a token; for masked_lm use one such as model=hf_masked"
            if is_masked
            else "the model sees what follows a token, which it is to predict; use task=masked_lm for it"
        )
    limit = max_positions(network)
    if limit is not None and data.sequence_length > limit:
        raise ValueError(
            f"data.sequence_length {data.sequence_length} is longer than the model's {limit} positions; "
            f"use data.sequence_length={limit} or a model with more"
        )
    return network


def predict_scored(model: nn.Module, batch: TokenBatch, **given: Tensor) -> tuple[Tensor, Tensor]:
    """(float32 logits, targets) of the scored positions of `batch`; `given` is what else the model takes."""
    device = next(model.parameters()).device
    targets = batch.targets.flatten()
    scored = (targets != IGNORE_INDEX).nonzero().squeeze(1)
    targets = targets[scored].to(device, non_blocking=True)
    with project_only(scored.to(device, non_blocking=True), find_output_head(model)):
        logits = model(input_ids=batch.inputs.to(device, non_blocking=True), **given).logits[0]
    return logits.float(), targets
