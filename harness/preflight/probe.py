"""What several checks do with a subject: look at it at rest, cut batches to what is cheap, train on one of them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.training_setup import IGNORED, LabeledTokens, TextFormat, TrainingSetup

PARAMETER_TOKENS, FEWEST, MOST = 2e8, 64, 256
"""Of a step: parameters times tokens, and its bounds in tokens; some 30 steps then take seconds on two cores."""
NEEDS_TEXT = "needs `text`, or batches that are mappings with input_ids and labels"
LARGE, FEW = 5e7, 2
"""Parameters above which so few repetitions have to do; to reach an adapter's first half takes two steps."""
ROUNDING = 1e-6
"""Of the largest gradient: what is 0 but for rounding."""
EXAMPLES = 8
"""Of what is no text."""
NORM = 1.0
"""To which gradients are clipped, by which no learning rate that is tried here blows up at the first step."""


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Nothing is dropped out, and no statistics move."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def affordable_tokens(model: nn.Module) -> int:
    """Tokens a step."""
    return int(min(MOST, max(FEWEST, PARAMETER_TOKENS / sum(parameter.numel() for parameter in model.parameters()))))


def affordable_repeats(subject: TrainingSetup, most: int) -> int:
    """Repetitions of something as dear as a step."""
    return most if sum(parameter.numel() for parameter in subject.model.parameters()) <= LARGE else min(most, FEW)


def subsample_batch(subject: TrainingSetup, batch: Any, most: int) -> Any:
    """The batch, cut to the examples, or to the stretch of one, that are up to `most` tokens with as many labels as can
    be."""
    if subject.text is None:
        return _slice_examples(batch, count_examples(batch))
    tokens = subject.text.read(batch)
    scored = tokens.labels != IGNORED
    rows, width = tokens.inputs.shape
    if width <= most:
        chosen = scored.sum(1).topk(min(rows, most // width)).indices.sort().values
        return subject.text.write(LabeledTokens(tokens.inputs[chosen], tokens.labels[chosen], tokens.is_real[chosen]))
    row, start = divmod(int(scored.float().unfold(1, most, 1).sum(-1).argmax()), width - most + 1)
    stretch = (slice(row, row + 1), slice(start, start + most))
    return subject.text.write(LabeledTokens(tokens.inputs[stretch], tokens.labels[stretch], tokens.is_real[stretch]))


def count_examples(batch: Any) -> int | None:
    """The examples in a batch of a usual kind; None of another, and where its parts are not all as long."""
    sizes = _part_lengths(batch)
    return sizes.pop() if len(sizes) == 1 else None


def _part_lengths(batch: Any) -> set[int]:
    if isinstance(batch, Mapping | tuple | list):
        parts = batch.values() if isinstance(batch, Mapping) else batch
        return set().union(*map(_part_lengths, parts))
    if isinstance(batch, str) or (isinstance(batch, Tensor) and not batch.ndim):
        return set()
    return {len(batch)} if hasattr(batch, "__len__") and hasattr(batch, "__getitem__") else set()


def _slice_examples(batch: Any, size: int | None) -> Any:
    """The first EXAMPLES of `size`; what holds no examples, or a grid beside them, as it is."""
    if size is None:
        return batch
    if isinstance(batch, Mapping):
        return {name: _slice_examples(part, size) for name, part in batch.items()}
    if type(batch) in (tuple, list):
        return type(batch)(_slice_examples(part, size) for part in batch)
    return batch[:EXAMPLES] if _part_lengths(batch) else batch


def extract_text_rows(subject: TrainingSetup, text: TextFormat, most: int) -> Tensor:
    """[rows, tokens] of what stands in the text, nothing masked and no padding: up to `most` tokens."""
    rows = []
    for tokens in map(text.read, subject.batches):
        true = tokens.labels.where((tokens.labels != IGNORED) & (not subject.is_causal), tokens.inputs)
        rows += [row[is_real] for row, is_real in zip(true, tokens.is_real, strict=True)]
    rows.sort(key=len, reverse=True)
    width = min(len(rows[0]), most)
    rows = [row[:width] for row in rows if 2 * len(row) >= width][: max(1, most // width)]
    width = min(map(len, rows))
    return torch.stack([row[:width] for row in rows])


def make_text_batch(true: Tensor, subject: TrainingSetup, text: TextFormat) -> Any:
    """The batch in which the rows of text `true` stand, all of it real and scored, labelled by the subject's rule."""
    inputs = true[:, : true.shape[1] - text.shift]
    return text.write(LabeledTokens(inputs, true[:, text.shift :], torch.ones_like(inputs, dtype=torch.bool)))


@torch.no_grad()
def measure_resolution(subject: TrainingSetup, batch: Any) -> float:
    """The relative step between numbers of the coarsest kind that a layer makes on the way to the loss."""
    seen = {torch.finfo(torch.float32).eps}

    def look(module: nn.Module, inputs: Any, made: Any) -> None:
        if isinstance(made, Tensor) and made.is_floating_point():
            seen.add(torch.finfo(made.dtype).eps)

    hooks = [module.register_forward_hook(look) for module in subject.model.modules()]
    try:
        subject.compute_loss(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return max(seen)


def train_on_batch(
    subject: TrainingSetup, batch: Any, optimizers: Sequence[torch.optim.Optimizer], steps: int, clip: float = NORM
) -> Iterator[float]:
    """The loss before each of `steps` updates on one batch, and after the last, at rest; none where nothing that is to
    be trained has a part in the loss."""
    trainable = list(subject.trainable_parameters.values())
    for optimizer in optimizers:
        if hasattr(optimizer, "train"):
            optimizer.train()
    with eval_mode(subject.model):
        for _ in range(steps):
            for parameter in trainable:
                parameter.grad = None
            loss = subject.compute_loss(batch)
            if not loss.requires_grad:
                return
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trainable, clip)
            for optimizer in optimizers:
                optimizer.step()
            yield loss.item()
        with torch.no_grad():
            yield subject.compute_loss(batch).item()


def format_names(names: Sequence[str], most: int = 3) -> str:
    """Some of these, and how many there are more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@torch.no_grad()
def has_reduced_precision(subject: TrainingSetup) -> bool:
    """Whether some layer's output is of fewer bits than 32, by the weights' type or by autocast."""
    seen: set[torch.dtype] = set()

    def look(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.is_floating_point():
            seen.add(output.dtype)

    hooks = [module.register_forward_hook(look) for module in subject.model.modules()]
    try:
        subject.compute_loss(subsample_batch(subject, subject.batches[0], FEWEST))
    finally:
        for hook in hooks:
            hook.remove()
    return any(dtype.itemsize < 4 for dtype in seen)
