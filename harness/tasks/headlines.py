"""Next-token prediction on headlines, with a second loss that is comparable to published results on them.

The published loss is the cross-entropy summed over full windows of 64 x 128 tokens, divided by the number of characters
of the whole validation text. Tokens that do not fill a window are left out of the sum but not of the divisor.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.core.task import Mean, Metric
from harness.data.tokens import TokenBatch, TokenRows
from harness.models import max_positions
from harness.tasks.causal_lm import CausalLM
from harness.tasks.text import LanguageModelBuilder, TokenDataBuilder, build_checked_model

WINDOW_ROWS, ROW_LENGTH = 64, 128  # of the published windows, independent of the batch that a run trains on
TITLE_SEPARATOR = "<eos>"  # the published loss counts its characters too


@dataclass(frozen=True)
class WindowBatch:
    """Rows of full windows; scored for the published loss only."""

    rows: TokenBatch


def build_headlines_task(
    *, model: LanguageModelBuilder, data: TokenDataBuilder, tokenizer: Any, seed: int, cache_dir: Path
) -> "HeadlinesLM":
    """Build next-token prediction on headlines.

    Raises:
        ValueError: If the windows do not fit the data or the model.
    """
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    network = build_checked_model(model, tokens, is_masked=False)
    limit = max_positions(network)
    if tokens.val.is_scored is not None:
        raise ValueError("task=headlines scores every token, but this data has prompts; use task=causal_lm")
    if limit is not None and limit < ROW_LENGTH:
        raise ValueError(
            f"the model's {limit} positions are fewer than the {ROW_LENGTH} tokens of a window's row; "
            f"use model.positions={ROW_LENGTH} or task=causal_lm"
        )
    if not len(cut_full_windows(tokens.val)):
        raise ValueError(
            f"the validation text of {tokens.val_scored_tokens} tokens does not fill a window of "
            f"{WINDOW_ROWS} x {ROW_LENGTH}; raise data.val_fraction, use more text, or use task=causal_lm"
        )
    return HeadlinesLM(network, tokens)


class HeadlinesLM(CausalLM):
    """Next-token prediction that also reports `windowed_loss`, the published loss.

    It falls when fewer tokens are covered, so `windowed_coverage` is reported beside it. The objective is `loss`, the
    mean over every token.
    """

    def validation_batches(self) -> Iterator[Any]:
        yield from super().validation_batches()
        rows, size = cut_full_windows(self.data.val), self.data.eval_batch_size
        for start in range(0, len(rows), size):
            yield WindowBatch(rows.make_batch(range(start, min(start + size, len(rows)))))

    def score_batch(self, batch: Any) -> dict[str, Mean]:
        if isinstance(batch, WindowBatch):
            return {"windowed_loss": super().score_batch(batch.rows)["loss"]}
        return super().score_batch(batch)

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        total = means.get("windowed_loss")
        if total is None:  # a test split need not fill a window
            return super().compute_metrics(means)
        separators = int((self.data.val.stream == self.data.eos_id).sum()) - 2  # without those at both ends
        characters = self.data.val_characters + len(TITLE_SEPARATOR) * separators
        return super().compute_metrics(means) | {
            "windowed_loss": Metric(total.sum / characters, "nats in full windows/character of all"),
            "windowed_coverage": Metric(
                total.count / self.data.val_scored_tokens, f"fraction of {self.data.evaluated} tokens"
            ),
        }


def cut_full_windows(split: TokenRows, rows: int = WINDOW_ROWS) -> TokenRows:
    """Return the rows of every full window of `rows` x 128 tokens.

    The first of a window's `rows` x 128 + 1 tokens is not a target. Tokens after the last full window are dropped.
    """
    stride = rows * ROW_LENGTH + 1
    n_tokens = len(split.stream) - 2  # published streams have no separators before the first and after the last title
    starts = 1 + stride * np.arange(n_tokens // stride)[:, None] + ROW_LENGTH * np.arange(rows)
    lengths = np.full(starts.size, ROW_LENGTH)
    return TokenRows(split.stream, None, starts.ravel(), lengths, lengths)
