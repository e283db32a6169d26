"""Tools shared by the checks: cut batches to a cheap size, and evaluate or train the model on one of them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.training_setup import LabeledTokens, TextFormat, TrainingSetup

# Tokens of a training step are chosen to keep parameters times tokens at STEP_COST, where about 30 steps take seconds
# on two cores.
STEP_COST, MIN_TOKENS, MAX_TOKENS = 2e8, 64, 256
NEEDS_TEXT = "needs `text`, or batches that are mappings with input_ids and labels"
LARGE_MODEL = 5e7  # parameters
FEW_REPEATS = 2  # for large models; a LoRA adapter's first matrix gets a gradient in its second step
ROUNDING = 1e-6  # relative to the largest gradient: smaller ones are 0 but for rounding
MAX_EXAMPLES = 8  # of batches that are not text
MAX_GRAD_NORM = 1.0  # keeps the LRs tried here from diverging in the first step


def affordable_tokens(model: nn.Module) -> int:
    """Return the number of tokens per step at which checks stay cheap."""
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return int(min(MAX_TOKENS, max(MIN_TOKENS, STEP_COST / parameters)))


def affordable_repeats(model: nn.Module, wanted: int) -> int:
    """Return how often to repeat something that costs as much as a step: fewer times for a large model."""
    is_large = sum(parameter.numel() for parameter in model.parameters()) > LARGE_MODEL
    return min(wanted, FEW_REPEATS) if is_large else wanted


def subsample_batch(setup: TrainingSetup, batch: Any, max_tokens: int) -> Any:
    """Cut a batch to the rows with the most labels, up to `max_tokens`, or to a window of one row if rows are longer.

    A batch that is not text is cut to its first MAX_EXAMPLES examples.
    """
    if setup.text is None:
        return _slice_examples(batch, count_examples(batch))
    tokens = setup.text.read(batch)
    is_scored = tokens.labels != IGNORE_INDEX
    rows, width = tokens.inputs.shape
    if width <= max_tokens:
        kept: Any = is_scored.sum(1).topk(min(rows, max_tokens // width)).indices.sort().values
    else:
        window_scores = is_scored.float().unfold(1, max_tokens, 1).sum(-1)
        row, start = divmod(int(window_scores.argmax()), width - max_tokens + 1)
        kept = (slice(row, row + 1), slice(start, start + max_tokens))
    return setup.text.write(LabeledTokens(tokens.inputs[kept], tokens.labels[kept], tokens.is_real[kept]))


def count_examples(batch: Any) -> int | None:
    """Return the number of examples in a batch, or None if it has no parts or parts of different lengths."""
    lengths = _part_lengths(batch)
    return lengths.pop() if len(lengths) == 1 else None


def _part_lengths(batch: Any) -> set[int]:
    if isinstance(batch, Mapping | tuple | list):
        parts = batch.values() if isinstance(batch, Mapping) else batch
        return set().union(*map(_part_lengths, parts))
    if isinstance(batch, str) or (isinstance(batch, Tensor) and not batch.ndim):
        return set()
    return {len(batch)} if hasattr(batch, "__len__") and hasattr(batch, "__getitem__") else set()


def _slice_examples(batch: Any, size: int | None) -> Any:
    """Return the first examples of a batch of `size`; parts without examples are kept as they are."""
    if size is None:
        return batch
    if isinstance(batch, Mapping):
        return {name: _slice_examples(part, size) for name, part in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(_slice_examples(part, size) for part in batch)
    return batch[:MAX_EXAMPLES] if _part_lengths(batch) else batch


def extract_text_rows(setup: TrainingSetup, text: TextFormat, max_tokens: int) -> Tensor:
    """Return up to `max_tokens` tokens of the original text, [rows, tokens], without masks and padding."""
    rows: list[Tensor] = []
    for tokens in map(text.read, setup.batches):
        is_masked = (tokens.labels != IGNORE_INDEX) & (not setup.is_causal)
        originals = tokens.labels.where(is_masked, tokens.inputs)
        rows += [row[is_real] for row, is_real in zip(originals, tokens.is_real, strict=True)]
    rows.sort(key=len, reverse=True)
    width = min(len(rows[0]), max_tokens)
    rows = [row[:width] for row in rows if 2 * len(row) >= width][: max(1, max_tokens // width)]
    width = min(map(len, rows))
    return torch.stack([row[:width] for row in rows])


def make_text_batch(text: TextFormat, rows: Tensor, pad_id: int = 0, n_pad: int = 0) -> Any:
    """Return the batch that holds `rows` of text, all positions labeled, followed by `n_pad` tokens of padding."""
    inputs, labels = rows[:, : rows.shape[1] - text.label_shift], rows[:, text.label_shift :]
    padding = (0, n_pad)
    return text.write(
        LabeledTokens(
            F.pad(inputs, padding, value=pad_id),
            F.pad(labels, padding, value=IGNORE_INDEX),
            F.pad(torch.ones_like(inputs, dtype=torch.bool), padding, value=False),
        )
    )


@torch.no_grad()
def measure_resolution(setup: TrainingSetup, batch: Any) -> float:
    """Return the machine epsilon of the coarsest type that a layer outputs, float32's or larger."""
    seen = {torch.finfo(torch.float32).eps}

    def record(module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            seen.add(torch.finfo(output.dtype).eps)

    hooks = [module.register_forward_hook(record) for module in setup.model.modules()]
    try:
        setup.compute_loss(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return max(seen)


def has_reduced_precision(setup: TrainingSetup) -> bool:
    """Return whether a layer outputs fewer than 32 bits, because of its weights or of autocast."""
    batch = subsample_batch(setup, setup.batches[0], MIN_TOKENS)
    return measure_resolution(setup, batch) > torch.finfo(torch.float32).eps


def train_on_batch(
    setup: TrainingSetup, batch: Any, optimizers: Sequence[torch.optim.Optimizer], steps: int
) -> Iterator[float]:
    """Yield the loss before each of `steps` updates on one batch and after the last one, in eval mode.

    Yield nothing if the loss does not depend on a trainable parameter.
    """
    trainable = list(setup.trainable_parameters.values())
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):  # schedule-free optimizers
            optimizer.train()
    with eval_mode(setup.model):
        for _ in range(steps):
            for parameter in trainable:
                parameter.grad = None
            loss = setup.compute_loss(batch)
            if not loss.requires_grad:
                return
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, MAX_GRAD_NORM)
            for optimizer in optimizers:
                optimizer.step()
            yield loss.item()
        with torch.no_grad():
            yield setup.compute_loss(batch).item()


def format_names(names: Sequence[str], limit: int = 3) -> str:
    """Return the first names and the number of the others."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
