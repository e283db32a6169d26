"""Next-token prediction."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.task import Loss, Mean, Metric
from harness.data.blimp import MinimalPair
from harness.data.tokens import TokenBatch, TokenData
from harness.tasks.minimal_pairs import build_pair_scorer
from harness.tasks.text import TextTask, build_checked_model, predict_scored


def build_causal_lm_task(
    *,
    model: Callable[..., nn.Module],
    data: Callable[..., TokenData],
    tokenizer: Any,
    seed: int,
    cache_dir: Path,
    blimp: Sequence[MinimalPair] = (),
) -> "CausalLM":
    """Next-token prediction, and minimal pairs beside it; ValueError where either has sequences longer than the model's
    positions."""
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    network = build_checked_model(model, tokens, is_masked=False)
    return CausalLM(network, tokens, pairs=build_pair_scorer(blimp, network, tokens, is_masked=False))


class CausalLM(TextTask):
    """Predicts each token from those before it. The model sees inputs only, so that no one shifts the labels twice."""

    @property
    def constants(self) -> Mapping[str, float]:
        """In nats a token: what a uniform guess and the validation set's own token frequencies would score."""
        return {"ln_vocabulary": math.log(self.data.vocab_size), "unigram_entropy": self.data.unigram_entropy}

    def compute_loss(self, batch: TokenBatch) -> Loss:
        """Cross-entropy in nats, summed over the scored tokens."""
        return Loss(self._compute_nats(batch, "sum"), batch.n_scored)

    def score_tokens(self, batch: TokenBatch) -> dict[str, Mean]:
        nats = self._compute_nats(batch, "none").cpu().double()  # mps has no float64
        return {"loss": Mean(nats.sum().item(), batch.n_scored, "nats/token", nats.square().sum().item())}

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        """Characters and bytes are those of the scored text; an end-of-text token costs nats and has neither."""
        loss = means["loss"]
        return super().compute_metrics(means) | {
            "perplexity": Metric(_exp(loss.value), "1/token"),
            "nats_per_character": Metric(loss.sum / self.data.val_characters, "nats/character"),
            "bits_per_byte": Metric(loss.sum / math.log(2) / self.data.val_bytes, "bits/byte"),
            "coverage": Metric(loss.count / self.data.val_scored_tokens, "fraction of validation tokens"),
        }

    def _compute_nats(self, batch: TokenBatch, reduction: str) -> Tensor:
        logits, targets = predict_scored(self.model, batch)
        return F.cross_entropy(logits, targets, reduction=reduction)


def _exp(nats: float) -> float:
    return math.exp(nats) if nats < 700 else math.inf
