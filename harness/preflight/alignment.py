"""Check that each position predicts the intended token.

The tokens are read from the text and compared with what the gradient of the loss rewards, whatever the loss is.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.outputs import record_outputs
from harness.preflight.probe import NEEDS_TEXT, affordable_tokens, measure_resolution, subsample_batch
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.text_format import LabeledTokens, TextFormat, measure_label_agreement
from harness.preflight.training_setup import TrainingSetup

OFFSETS = (-2, -1, 0, 1, 2)  # distances in the text from the intended token to others
FAR_OFFSETS = (-4, -3, 3, 4)  # compared where at least half of the scored positions have such a token
LOSS_TOLERANCE = 1e-3  # relative difference between two ways to compute a loss in float32
REWARDED_SHARE = 0.9  # of the scored positions
ORDER_TOLERANCE = 1e-3  # of the gradient's sum, relative to that of its absolute values
LEARNED_MARGIN = 0.1  # nats by which a trained model prefers one offset
STANDARD_ERRORS = 3  # of that difference over rows
# An offset is learned below this share of ln(vocabulary). The input token itself needs a lower one: with a tied head,
# random weights repeat their input.
LEARNED_SHARE, LEARNED_SHARE_OF_INPUT = 0.9, 0.25
HINT = "Look at where labels are shifted: in the collator or in the model's loss, never in both"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    text = setup.text
    if text is None:
        yield skipped("labels and text", NEEDS_TEXT)
        return
    if setup.is_causal:
        yield _check_labels(setup, text)
    yield _check_rewarded_token(setup, text)
    yield _check_learned_offset(setup, text)


def _check_labels(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that the labels of a causal model are tokens of the text, `label_shift` tokens ahead."""
    shares: dict[int, float] = {}
    for offset in OFFSETS:
        counts = [
            measure_label_agreement(text.read_tokens(batch), text.label_shift + offset) for batch in setup.batches
        ]
        if scored := sum(count for _, count in counts):
            shares[offset] = sum(matching for matching, _ in counts) / scored
    intended = _describe_distance(text.label_shift)
    title, expected = "labels in the batches", f"all to be {intended}"
    if 0 not in shares:
        return skipped(title, "needs rows of several tokens")
    best = max(shares, key=lambda offset: (shares[offset], offset == 0))
    observed = f"{shares[0]:.0%} are {intended}"
    if best != 0 and shares[best] > shares[0] + 0.5:
        observed += f", {shares[best]:.0%} {_describe_distance(text.label_shift + best)}"
        return failed(title, observed, expected, HINT)
    return (passed if shares[0] > 0.9 else warned)(title, observed, expected, HINT)


def _check_rewarded_token(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Find the token whose logit the loss would raise most at each position, from the gradient of the logits.

    It is the target of every loss of this kind, with smoothing, weights or further terms, and needs no trained weights.
    """
    title, needs = "token that the loss rewards", "needs a loss that is computed from the model's logits"
    batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
    tokens = text.read_tokens(batch)
    with torch.enable_grad(), eval_mode(setup.model):
        loss, outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))
    logits = [output for output in outputs if output.ndim == 3 and output.shape[:2] == tokens.inputs.shape]
    if len(logits) != 1 or not logits[0].requires_grad or not torch.isfinite(loss):
        return _check_loss_value(setup, batch) if torch.isfinite(loss) else skipped(title, needs)
    [gradient] = torch.autograd.grad(loss, logits[0], allow_unused=True)
    if gradient is None or not gradient.any():
        return _check_loss_value(setup, batch)
    gradient = gradient.float()
    is_scored, rewarded = gradient.abs().amax(-1) > 0, gradient.argmin(-1)
    originals = tokens.inputs if setup.is_causal else tokens.labels.where(tokens.labels != IGNORE_INDEX, tokens.inputs)
    shares = {}
    for offset in (*OFFSETS, *FAR_OFFSETS):
        distance = offset + bool(setup.is_causal)
        if not offset and text.label_shift:
            expected_tokens, is_known = tokens.labels, tokens.labels != IGNORE_INDEX
        else:
            expected_tokens = originals.roll(-distance, 1)
            place = torch.arange(originals.shape[1], device=originals.device) + distance
            is_known = ((place >= 0) & (place < originals.shape[1])).expand_as(originals)
        is_compared = is_scored & is_known
        if is_compared.any() and (offset in OFFSETS or 2 * is_compared.sum() >= is_scored.sum()):
            shares[offset] = (rewarded == expected_tokens)[is_compared].float().mean().item()
    if 0 not in shares:
        return skipped(title, "needs rows of several tokens")
    best = max(shares, key=lambda offset: (shares[offset], offset == 0))
    observed, expected = f"{shares[0]:.0%} are {_describe_offset(0, setup)}", _describe_offset(0, setup)
    if shares[0] >= REWARDED_SHARE:
        return passed(title, observed, expected)
    if shares[best] < REWARDED_SHARE and (order := _describe_other_order(gradient, _place_labels(setup, tokens))):
        hint = "Look for view or reshape where transpose is meant, and for two tensors that are flattened differently"
        return failed(title, f"{observed}: {order}", expected, hint)
    if shares[best] < REWARDED_SHARE:
        return skipped(title, f"{observed}, and no other is: needs a loss with one target token (no soft targets)")
    observed = f"{shares[best]:.0%} are {_describe_offset(best, setup)}, {observed}"
    hint = HINT
    if best == 1:
        observed += ": labels are shifted twice"
    elif setup.is_causal and best == -1:
        hint = "Labels are not shifted: a causal model predicts the next token, a masked model a hidden one"
    return failed(title, observed, expected, hint)


def _place_labels(setup: TrainingSetup, tokens: LabeledTokens) -> Tensor:
    """Return the labels at the positions of their logits."""
    assert setup.text is not None
    if not setup.is_causal or setup.text.label_shift:
        return tokens.labels
    labels = tokens.labels.roll(-1, 1)
    labels[:, -1] = IGNORE_INDEX
    return labels


def _describe_other_order(gradient: Tensor, labels: Tensor) -> str:
    """Say how logits and labels are out of order, from the gradient of the logits, or return an empty string.

    A cross-entropy over the vocabulary has gradients that sum to 0 at each position; over another dimension, they only
    sum to 0 in all. Labels in another order are each rewarded once, elsewhere.
    """
    size, sums = gradient.abs().sum(), gradient.sum(-1)
    n_rewarded, n_labels = int((gradient < 0).sum()), int((labels != IGNORE_INDEX).sum())
    is_other_dimension = sums.sum().abs() < ORDER_TOLERANCE * size and sums.abs().sum() > 100 * ORDER_TOLERANCE * size
    if is_other_dimension and 0.9 * n_labels <= n_rewarded <= 1.1 * n_labels:
        return "the softmax is not over the vocabulary; logits and labels are in another order"
    lowest = gradient.topk(2, largest=False).values
    is_clear = (lowest[..., 0] < 0) & (lowest[..., 1] > 0.3 * lowest[..., 0])
    if not bool(is_clear[gradient.abs().amax(-1) > 0].all()):
        return ""
    rewarded = gradient.argmin(-1)[is_clear].sort().values
    wanted = labels[labels != IGNORE_INDEX].sort().values
    if len(wanted) and torch.equal(rewarded, wanted):
        return "each label is rewarded at another position; logits and labels are in another order"
    return ""


@torch.no_grad()
def _check_loss_value(setup: TrainingSetup, batch: Any) -> Finding:
    """Find the token whose cross-entropy the loss is, for a loss that does not use the logits as one tensor."""
    assert setup.text is not None
    title, expected = "token that the loss rewards", _describe_offset(0, setup)
    tokens, logits = setup.text.read_tokens(batch), setup.compute_logits(batch)
    with eval_mode(setup.model):
        loss = setup.compute_loss(batch).item()
        tolerance = max(LOSS_TOLERANCE, 4 * measure_resolution(setup, batch))
    # Labels at their own distance from the logits; only their places are scored at the other distances.
    distance = int(bool(setup.is_causal) and not setup.text.label_shift)
    labels, entropies = tokens.labels.roll(-distance, 1), {}
    labels[:, labels.shape[1] - distance :] = IGNORE_INDEX
    for offset in OFFSETS:
        targets = labels.roll(-offset, 1)
        is_compared = (labels != IGNORE_INDEX) & (targets != IGNORE_INDEX)
        if is_compared.any():
            entropies[offset] = F.cross_entropy(logits[is_compared].float(), targets[is_compared]).item()
    if 0 not in entropies:
        return skipped(title, "needs rows of several tokens")
    errors = {offset: abs(loss / entropy - 1) for offset, entropy in entropies.items() if entropy}
    nearest = min(errors, key=errors.__getitem__)
    if errors.get(0, math.inf) <= tolerance:
        return passed(title, f"loss {loss:.4f}, cross-entropy of {expected} {entropies[0]:.4f}")
    if errors[nearest] > 10 * tolerance or errors[0] < 10 * errors[nearest]:
        return skipped(title, f"needs a loss that is a cross-entropy, or computed from the logits; loss {loss:.4f}")
    observed = f"loss {loss:.4f}, the cross-entropy of {_describe_offset(nearest, setup)}; "
    observed += f"that of {expected} is {entropies[0]:.4f}"
    return failed(title, observed + (": labels are shifted twice" if nearest == 1 else ""), expected, HINT)


@torch.no_grad()
def _check_learned_offset(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that pretrained weights predict the intended token, on all batches."""
    title = "token that the weights predict"
    if not setup.is_pretrained:
        return skipped(title, "needs pretrained weights and is_pretrained=True")
    max_tokens, sums, vocab_size = affordable_tokens(setup.model), dict[int, list[Tensor]](), 2
    for batch in setup.batches:
        batch = subsample_batch(setup, batch, max_tokens)
        tokens = text.read_tokens(batch)
        logits = setup.compute_logits(batch)
        is_scored = tokens.labels != IGNORE_INDEX
        rows = tokens.inputs if setup.is_causal else tokens.labels.where(is_scored, tokens.inputs)
        positions = tokens.is_real if setup.is_causal else is_scored
        vocab_size = logits.shape[-1]
        for offset, row_sums in _entropies_by_offset(logits, rows, setup, positions, tokens).items():
            sums.setdefault(offset, []).append(row_sums)
    by_row = {offset: torch.cat(parts) for offset, parts in sums.items()}
    entropies = {offset: (each[:, 0].sum() / each[:, 1].sum().clamp(min=1)).item() for offset, each in by_row.items()}
    best, observed = min(entropies, key=entropies.__getitem__), f"cross-entropy {_describe_entropies(entropies, setup)}"
    expected = f"the lowest for {_describe_offset(0, setup)}"
    others = {offset: entropy for offset, entropy in entropies.items() if offset}
    if best == 0 and min(others.values()) > entropies[0] + LEARNED_MARGIN:
        lead = f"{entropies[0]:.2f} nats/token; at least {min(others.values()):.2f} for neighboring tokens"
        return passed(title, lead, expected)
    share = LEARNED_SHARE_OF_INPUT if best + bool(setup.is_causal) == 0 else LEARNED_SHARE
    margin = max(LEARNED_MARGIN, STANDARD_ERRORS * _difference_error(by_row[0], by_row[best]))
    if best != 0 and entropies[best] < share * math.log(vocab_size) and entropies[best] < entropies[0] - margin:
        hint = "Compare with the labels that these weights were trained with, and look at the attention mask"
        return failed(title, observed, expected, hint)
    return skipped(title, f"needs weights that prefer one of the tokens: {observed}")


def _difference_error(one: Tensor, other: Tensor) -> float:
    """Return the standard error of the difference of two means, from their sums and counts by row."""
    is_used = (one[:, 1] > 0) & (other[:, 1] > 0)
    differences = one[is_used, 0] / one[is_used, 1] - other[is_used, 0] / other[is_used, 1]
    return (differences.std() / len(differences) ** 0.5).item() if len(differences) > 1 else math.inf


def _entropies_by_offset(
    logits: Tensor, rows: Tensor, setup: TrainingSetup, positions: Tensor, tokens: LabeledTokens
) -> Mapping[int, Tensor]:
    """Return the cross-entropy of the logits against the text by offset: its sum and count of each row, [rows, 2]."""
    entropies = {}
    for offset in OFFSETS:
        distance = offset + bool(setup.is_causal)
        first, last = max(0, -distance), min(logits.shape[1], rows.shape[1] - distance)
        if last <= first:
            entropies[offset] = torch.zeros(len(rows), 2)
            continue
        is_chosen = positions[:, first:last] & tokens.is_real[:, first + distance : last + distance]
        targets = rows[:, first + distance : last + distance]
        nats = F.cross_entropy(logits[:, first:last].float().flatten(0, 1), targets.flatten(), reduction="none")
        nats = nats.view(targets.shape) * is_chosen
        entropies[offset] = torch.stack([nats.sum(1), is_chosen.sum(1).float()], 1).cpu()
    return entropies


def _describe_offset(offset: int, setup: TrainingSetup) -> str:
    return _describe_distance(offset + bool(setup.is_causal))


def _describe_distance(distance: int) -> str:
    names = {-1: "the previous token", 0: "the token itself", 1: "the next token"}
    return names.get(distance, f"the token {distance} ahead")


def _describe_entropies(entropies: Mapping[int, float], setup: TrainingSetup) -> str:
    return ", ".join(f"{entropies[offset]:.4f} of {_describe_offset(offset, setup)}" for offset in OFFSETS)
