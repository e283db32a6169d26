"""Next-token prediction."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from harness.core.task import Loss, Mean, Metric
from harness.data.blimp import MinimalPair
from harness.data.tokens import TokenBatch
from harness.tasks.metrics import mean_of_values
from harness.tasks.minimal_pairs import build_pair_scorer
from harness.tasks.text import LanguageModelBuilder, TextTask, TokenDataBuilder, build_checked_model, predict_scored


def build_causal_lm_task(
    *,
    model: LanguageModelBuilder,
    data: TokenDataBuilder,
    tokenizer: Any,
    seed: int,
    cache_dir: Path,
    blimp: Sequence[MinimalPair] = (),
) -> "CausalLM":
    """Build next-token prediction with `model` on `data`; every evaluation also scores the minimal pairs of `blimp`.

    Raises:
        ValueError: If the model is not causal or has too few positions for the data or the pairs.
    """
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    network = build_checked_model(model, tokens, is_masked=False)
    return CausalLM(network, tokens, pairs=build_pair_scorer(blimp, network, tokens, is_masked=False))


class CausalLM(TextTask):
    """Predict each token from those before it. The model receives inputs only, so labels cannot be shifted twice."""

    @property
    def constants(self) -> Mapping[str, float]:
        """Loss of a uniform guess and of the validation set's token frequencies, in nats/token."""
        return {"ln_vocabulary": math.log(self.data.vocab_size), "unigram_entropy": self.data.unigram_entropy}

    def compute_loss(self, batch: TokenBatch) -> Loss:
        """Return the cross-entropy in nats, summed over the scored tokens."""
        return Loss(self._compute_nats(batch, "sum"), batch.n_scored)

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        return {"loss": mean_of_values(self._compute_nats(batch, "none"), "nats/token", batch.scored_per_row)}

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Return the metrics of an evaluation.

        Characters and bytes are those of the scored text. An end-of-text token adds to the loss but has neither.
        """
        loss = means["loss"]
        return super().compute_metrics(means) | {
            "perplexity": Metric(math.exp(loss.value) if loss.value < 700 else math.inf, "1/token"),
            "nats_per_character": Metric(loss.sum / self.data.val_characters, "nats/character"),
            "bits_per_byte": Metric(loss.sum / math.log(2) / self.data.val_bytes, "bits/byte"),
            "coverage": Metric(loss.count / self.data.val_scored_tokens, f"fraction of {self.data.evaluated} tokens"),
        }

    def _compute_nats(self, batch: TokenBatch, reduction: str) -> Tensor:
        logits, targets = predict_scored(self.model, batch)
        return F.cross_entropy(logits, targets, reduction=reduction)
