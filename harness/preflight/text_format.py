"""Text in batches: how to read and write it, and which token a label stands for."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from harness.data.tokens import IGNORE_INDEX

MATCHING_SHARE = 0.9  # of the labels, from which they are taken to be the tokens at one distance in the text
SHOWN_SHARE = 0.99  # labels that equal the inputs this often are the text itself: nothing was masked
RARE_LABEL = 0.1  # share of the labels that a mask token has
MANY_LABELS = 8  # behind one token, which then hides them
TEXT_KEYS = ("input_ids", "labels", "attention_mask")


@dataclass(frozen=True)
class LabeledTokens:
    """Rows of tokens: int64 `inputs` and `labels`, [rows, tokens], and bool `is_real`, False for padding.

    Labels are -100 where the loss scores nothing. `columns` holds by name whatever else is in the batch, such as
    position ids or weights; `write` must put it back.
    """

    inputs: Tensor
    labels: Tensor
    is_real: Tensor
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TextFormat:
    """The layout of text in batches. `read` turns a batch into tokens, `write` is its inverse.

    `logits(model, batch)` returns logits of all positions, [rows, tokens, vocabulary], computed as the loss computes
    them. Without it, they are taken from the model's output while the loss is computed.
    `label_shift` is the distance from an input to the token that its label holds: 1 if labels are the next tokens, 0 if
    they equal the inputs (the model's own loss shifts them) or hold what a mask hides.
    `ignore_index` is the label that the loss does not score.
    """

    read: Callable[[Any], LabeledTokens]
    write: Callable[[LabeledTokens], Any]
    logits: Callable[[nn.Module, Any], Tensor] | None = None
    label_shift: int = 0
    ignore_index: int = IGNORE_INDEX

    def read_tokens(self, batch: Any) -> LabeledTokens:
        """Return the tokens of a batch, with -100 for labels that are not scored."""
        tokens = self.read(batch)
        if self.ignore_index == IGNORE_INDEX:
            return tokens
        return replace(tokens, labels=tokens.labels.masked_fill(tokens.labels == self.ignore_index, IGNORE_INDEX))

    def make_batch(self, tokens: LabeledTokens) -> Any:
        """Return the batch that holds these tokens."""
        labels = tokens.labels.masked_fill(tokens.labels == IGNORE_INDEX, self.ignore_index)
        return self.write(replace(tokens, labels=labels))


def detect_text_format(batch: Any) -> TextFormat | None:
    """Return the format of a batch with `input_ids` and `labels`, as in transformers, or of a pair of inputs and next
    tokens, as in nanoGPT; None for another batch.
    """
    if isinstance(batch, Mapping) and {"input_ids", "labels"} <= batch.keys():
        inputs, labels, read = batch["input_ids"], batch["labels"], _read_mapping
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        (inputs, labels), read = batch, _read_pair
    else:
        return None
    if not (isinstance(labels, Tensor) and isinstance(inputs, Tensor) and labels.shape == inputs.shape):
        return None
    if inputs.ndim != 2 or labels.is_floating_point() or inputs.is_floating_point():
        return None
    negative = labels[labels < 0].unique().tolist()
    ignore_index = negative[0] if len(negative) == 1 else IGNORE_INDEX

    def write(tokens: LabeledTokens) -> Any:
        return type(batch)((tokens.inputs, tokens.labels)) if read is _read_pair else _fill_mapping(batch, tokens)

    text = TextFormat(read, write, None, 0, ignore_index)
    tokens = text.read_tokens(batch)
    if read is _read_pair:  # other pairs of integers are not text, such as pixels and their classes
        following, scored = measure_label_agreement(tokens, 1)
        return replace(text, label_shift=1) if scored and following >= MATCHING_SHARE * scored else None
    return replace(text, label_shift=_detect_label_shift(tokens))


def _read_pair(batch: Any) -> LabeledTokens:
    return LabeledTokens(batch[0], batch[1], torch.ones_like(batch[0], dtype=torch.bool))


def _read_mapping(batch: Mapping[str, Any]) -> LabeledTokens:
    inputs, mask = batch["input_ids"], batch.get("attention_mask")
    is_real, is_mask = torch.ones_like(inputs, dtype=torch.bool), False
    if isinstance(mask, Tensor) and mask.shape == inputs.shape:
        is_real, is_mask = mask.bool(), True
    others = {name: value for name, value in batch.items() if name not in TEXT_KEYS[: 2 + is_mask]}
    return LabeledTokens(inputs, batch["labels"], is_real, others)


def _fill_mapping(template: Any, tokens: LabeledTokens) -> Any:
    """Return a mapping of the template's type; it has an attention mask if the template has one."""
    batch = copy.copy(template)
    values = {"input_ids": tokens.inputs, "labels": tokens.labels, **tokens.columns}
    if "attention_mask" in template and "attention_mask" not in values:
        values["attention_mask"] = tokens.is_real.to(template["attention_mask"].dtype)
    for name, value in values.items():
        batch[name] = value
    return batch


def measure_label_agreement(tokens: LabeledTokens, distance: int) -> tuple[int, int]:
    """Return how many labels equal the input `distance` tokens ahead, and how many could."""
    first, last = max(0, -distance), tokens.inputs.shape[1] - max(0, distance)
    labels, inputs = tokens.labels[:, first:last], tokens.inputs[:, first + distance : last + distance]
    is_scored = (labels != IGNORE_INDEX) & tokens.is_real[:, first + distance : last + distance]
    return int(((labels == inputs) & is_scored).sum()), int(is_scored.sum())


def _detect_label_shift(tokens: LabeledTokens) -> int:
    """Return 1 if most labels are the next input. Labels that equal the input or are masked there have no shift."""
    same, _ = measure_label_agreement(tokens, 0)
    following, scored = measure_label_agreement(tokens, 1)
    return int(following > max(same, scored / 2))


def predicts_next_token(model: nn.Module, text: TextFormat, batches: Sequence[Any]) -> bool | None:
    """Return whether the labels are meant for a model that predicts the next token, or None if they do not show it.

    A class named ...ForMaskedLM or ...ForCausalLM says it. Labels that are the text itself, at any distance, are for
    the next token; labels that differ from the inputs hold what a mask hides.
    """
    names = {type(module).__name__ for module in model.modules()}
    if any(name.endswith("ForMaskedLM") for name in names):
        return False
    if text.label_shift or any(name.endswith(("ForCausalLM", "LMHeadModel")) for name in names):
        return True
    counts = {distance: [0, 0] for distance in (-1, 0, 1, 2, 3)}
    for tokens in map(text.read_tokens, batches):
        for distance, count in counts.items():
            matching, scored = measure_label_agreement(tokens, distance)
            counts[distance] = [count[0] + matching, count[1] + scored]
    shares = {distance: matching / max(1, scored) for distance, (matching, scored) in counts.items()}
    if not counts[0][1]:
        return None
    if shares[0] >= SHOWN_SHARE or max(share for distance, share in shares.items() if distance) >= MATCHING_SHARE:
        return True
    return False if _has_mask_token(text, batches) or shares[0] < 0.5 else None


def _has_mask_token(text: TextFormat, batches: Sequence[Any]) -> bool:
    """Return whether most inputs that differ from their labels are one token."""
    return _find_hiding_token(list(map(text.read_tokens, batches))) is not None


def _find_hiding_token(tokens: Sequence[LabeledTokens]) -> int | None:
    """Return the token that stands for most of the labels that the inputs do not show, or None."""
    hidden = torch.cat([each.inputs[(each.labels != IGNORE_INDEX) & (each.labels != each.inputs)] for each in tokens])
    ids, counts = hidden.unique(return_counts=True)
    return int(ids[counts.argmax()]) if len(ids) and counts.max() > 0.5 * counts.sum() else None


def find_mask_token(model: nn.Module, tokens: Sequence[LabeledTokens]) -> int | None:
    """Return the token that hides what is to be predicted, or None, as of a tagger or of noise to be removed.

    It is the one in the model's configuration if the batches hold it, or one that stands for most of the labels that
    are not shown and for several of them, and is seldom a label itself.
    """
    labels = torch.cat([each.labels[each.labels != IGNORE_INDEX] for each in tokens])
    given = getattr(getattr(model, "config", None), "mask_token_id", None)
    if isinstance(given, int) and any(bool((each.inputs == given).any()) for each in tokens):
        return given
    found = _find_hiding_token(tokens)
    if found is None or (labels == found).float().mean() > RARE_LABEL:
        return None
    behind = torch.cat([each.labels[(each.inputs == found) & (each.labels != IGNORE_INDEX)] for each in tokens])
    n_behind, n_labels = len(behind.unique()), len(labels.unique())
    return found if n_behind >= max(3, min(MANY_LABELS, n_labels // 2)) else None


def hides_tokens(model: nn.Module, tokens: Sequence[LabeledTokens]) -> bool:
    """Return whether the model predicts what a mask token hides, by the name of its class or by its batches."""
    is_named = any(type(module).__name__.endswith("ForMaskedLM") for module in model.modules())
    return is_named or find_mask_token(model, tokens) is not None
