"""Next-token prediction, with the figure that document 4 reports beside our own loss."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from harness.core.task import Mean, Metric
from harness.data.tokens import TokenBatch, TokenData, TokenRows
from harness.models import max_positions
from harness.tasks.causal_lm import CausalLM
from harness.tasks.text import build_checked_model

WINDOW_ROWS, ROW_LENGTH = 64, 128
"""Of the document's windows, whatever a run trains on."""
TITLE_SEPARATOR = "<eos>"
"""Between titles; the document counts its characters, too."""


@dataclass(frozen=True)
class WindowBatch:
    """Rows that count for the document's figure alone."""

    rows: TokenBatch


def build_headlines_task(
    *, model: Callable[..., nn.Module], data: Callable[..., TokenData], tokenizer: Any, seed: int, cache_dir: Path
) -> "HeadlinesLM":
    """Next-token prediction on titles; ValueError where the document's windows do not fit the data or the model."""
    tokens = data(tokenizer=tokenizer, seed=seed, cache_dir=cache_dir)
    network = build_checked_model(model, tokens, is_masked=False)
    _check_windows_fit(tokens, max_positions(network))
    return HeadlinesLM(network, tokens)


def _check_windows_fit(data: TokenData, limit: int | None) -> None:
    if data.val.is_scored is not None:
        raise ValueError("the document's figure scores every token, and this data has prompts; use task=causal_lm")
    if limit is not None and limit < ROW_LENGTH:
        raise ValueError(
            f"the model's {limit} positions are fewer than the {ROW_LENGTH} tokens of a row of the document's windows; "
            f"use model.positions={ROW_LENGTH} or task=causal_lm"
        )
    if not len(cut_full_windows(data.val)):
        raise ValueError(
            f"the validation text of {data.val_scored_tokens} tokens does not fill a window of {WINDOW_ROWS} x {ROW_LENGTH}; "
            "raise data.val_fraction, use more text, or use task=causal_lm"
        )


class HeadlinesLM(CausalLM):
    """`windowed_loss` is the cross-entropy summed over full windows and divided by all characters: it falls where less
    is covered, so `windowed_coverage` stands beside it, and the objective stays the mean over every token."""

    def validation_batches(self) -> Iterator[TokenBatch | WindowBatch]:
        yield from super().validation_batches()
        rows, size = cut_full_windows(self.data.val), self.data.eval_batch_size
        for start in range(0, len(rows), size):
            yield WindowBatch(rows.make_batch(range(start, min(start + size, len(rows)))))

    def score_batch(self, batch: TokenBatch | WindowBatch) -> dict[str, Mean]:
        if isinstance(batch, WindowBatch):
            return {"windowed_loss": super().score_batch(batch.rows)["loss"]}
        return super().score_batch(batch)

    def compute_metrics(self, means: Mapping[str, Mean]) -> dict[str, Metric]:
        total = means["windowed_loss"]
        return super().compute_metrics(means) | {
            "windowed_loss": Metric(total.sum / self._count_characters, "nats in full windows/character of all"),
            "windowed_coverage": Metric(total.count / self.data.val_scored_tokens, "fraction of validation tokens"),
        }

    @property
    def _count_characters(self) -> int:
        marks = int((self.data.val.stream == self.data.eos_id).sum()) - 2  # our stream has one at either end, too
        return self.data.val_characters + len(TITLE_SEPARATOR) * marks


def cut_full_windows(split: TokenRows, rows: int = WINDOW_ROWS) -> TokenRows:
    """The rows of every full window of `rows` x 128 tokens: of each window's `rows` x 128 + 1 tokens the first is no
    target, and what is left at the end is in no window."""
    stride = rows * ROW_LENGTH + 1
    text = len(split.stream) - 2  # titles joined by marks: the marks at either end are ours
    starts = 1 + stride * np.arange(text // stride)[:, None] + ROW_LENGTH * np.arange(rows)
    lengths = np.full(starts.size, ROW_LENGTH)
    return TokenRows(split.stream, None, starts.ravel(), lengths, lengths)
