"""Check that each position predicts the intended token.

The tokens are read from the text and compared with the logits, independently of the loss function.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.probe import (
    NEEDS_TEXT,
    affordable_tokens,
    extract_text_rows,
    make_text_batch,
    measure_resolution,
    train_on_batch,
)
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.training_setup import LabeledTokens, TextFormat, TrainingSetup

OFFSETS = (-1, 0, 1, 2)  # distances in the text from the intended token to others
LOSS_TOLERANCE = 1e-3  # relative difference between two ways to compute a loss in float32
LEARNED_MARGIN = 0.1  # nats by which a trained model prefers one offset
# An offset is learned below this share of ln(vocabulary). The input token itself needs a lower one: with a tied head,
# random weights repeat their input.
LEARNED_SHARE, LEARNED_SHARE_OF_INPUT = 0.9, 0.25
TOY_TOKENS, TOY_LRS, TOY_STEPS, TOY_MARGIN = 16, (3e-3, 1e-2, 3e-4), 48, 0.5
HINT = "Look at where labels are shifted: in the collator or in the model's loss, never in both"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    text = setup.text
    if text is None:
        yield skipped("labels and text", NEEDS_TEXT)
        return
    if setup.is_causal:
        yield _check_labels(setup, text)
    yield _check_loss_offset(setup, text)
    yield _check_learned_offset(setup, text)
    yield _check_toy_text(setup, text)


def _check_labels(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that the labels of a causal model are tokens of the text, `label_shift` tokens ahead."""
    shares = dict.fromkeys(OFFSETS, 0.0)
    for tokens in map(text.read, setup.batches):
        for offset in OFFSETS:
            shares[offset] += _label_agreement(tokens, text.label_shift + offset) / len(setup.batches)
    best = max(shares, key=lambda offset: (shares[offset], offset == 0))
    intended = _describe_distance(text.label_shift)
    observed, expected = f"{shares[0]:.0%} are {intended}", f"all to be {intended}"
    if best != 0 and shares[best] > shares[0] + 0.5:
        observed += f", {shares[best]:.0%} {_describe_distance(text.label_shift + best)}"
        return failed("labels in the batches", observed, expected, HINT)
    return (passed if shares[0] > 0.9 else warned)("labels in the batches", observed, expected, HINT)


def _label_agreement(tokens: LabeledTokens, distance: int) -> float:
    """Return the share of labels that equal the input `distance` tokens ahead."""
    first, last = max(0, -distance), tokens.inputs.shape[1] - max(0, distance)
    labels, inputs = tokens.labels[:, first:last], tokens.inputs[:, first + distance : last + distance]
    is_scored = (labels != IGNORE_INDEX) & tokens.is_real[:, first + distance : last + distance]
    return ((labels == inputs) & is_scored).sum().item() / max(1, is_scored.sum().item())


@torch.no_grad()
def _check_loss_offset(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that the loss is the cross-entropy of the intended token. It needs no trained weights."""
    title = "loss and logits"
    rows = extract_text_rows(setup, text, affordable_tokens(setup.model))
    batch = make_text_batch(text, rows)
    with eval_mode(setup.model):
        loss, logits = setup.compute_loss(batch).item(), text.logits(setup.model, batch)
        tolerance = max(LOSS_TOLERANCE, 4 * measure_resolution(setup, batch))
    entropies = _entropies_by_offset(logits, rows, setup)
    errors = {offset: abs(loss - entropy) / entropy for offset, entropy in entropies.items()}
    nearest = min(errors, key=errors.__getitem__)
    expected = f"the loss of {_describe_offset(0, setup)}"
    if errors[0] <= tolerance and errors[0] <= 4 * errors[nearest] + 1e-5:
        observed = f"loss {loss:.4f}, cross-entropy of {_describe_offset(0, setup)} {entropies[0]:.4f}"
        return passed(title, observed, expected)
    observed = f"loss {loss:.4f}, cross-entropy {_describe_entropies(entropies, setup)}"
    if errors[nearest] > tolerance:
        hint = "Look for unintended terms in the loss: label smoothing, penalties, weights, another mean"
        return warned(title, f"{observed}: the loss is none of these", expected, hint)
    observed += f": the loss is that of {_describe_offset(nearest, setup)}"
    return failed(title, observed + (", so labels are shifted twice" if nearest == 1 else ""), expected, HINT)


@torch.no_grad()
def _check_learned_offset(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that pretrained weights predict the intended token."""
    title = "token that the weights predict"
    if not setup.is_pretrained:
        return skipped(title, "needs pretrained weights and is_pretrained=True")
    tokens = text.read(setup.batches[0])
    n_rows = max(1, 4 * affordable_tokens(setup.model) // tokens.inputs.shape[1])
    tokens = LabeledTokens(tokens.inputs[:n_rows], tokens.labels[:n_rows], tokens.is_real[:n_rows])
    with eval_mode(setup.model):
        logits = text.logits(setup.model, text.write(tokens))
    is_scored = tokens.labels != IGNORE_INDEX
    rows = tokens.inputs if setup.is_causal else tokens.labels.where(is_scored, tokens.inputs)
    positions = tokens.is_real if setup.is_causal else is_scored
    entropies = _entropies_by_offset(logits, rows, setup, positions, targets=tokens.is_real)
    best, observed = min(entropies, key=entropies.__getitem__), f"cross-entropy {_describe_entropies(entropies, setup)}"
    expected = f"the lowest for {_describe_offset(0, setup)}"
    if best == 0 and min(entropies[offset] for offset in OFFSETS if offset) > entropies[0] + LEARNED_MARGIN:
        return passed(title, _describe_lead(entropies), expected)
    share = LEARNED_SHARE_OF_INPUT if _logit_distance(best, setup) == 0 else LEARNED_SHARE
    is_learned = entropies[best] < share * math.log(logits.shape[-1])
    if best != 0 and is_learned and entropies[best] < entropies[0] - LEARNED_MARGIN:
        return failed(title, observed, expected, f"Compare with the labels these weights were trained with. {HINT}")
    return skipped(title, f"needs weights that prefer one of the tokens: {observed}")


def _check_toy_text(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Train on text where each token determines its target. Any correct model learns this in seconds."""
    title = "toy text with fixed successors"
    rows = extract_text_rows(setup, text, affordable_tokens(setup.model))
    ids, counts = rows.unique(return_counts=True)
    ids = ids[counts.argsort(descending=True)[:TOY_TOKENS]]
    if len(ids) < 4:
        return skipped(title, "needs text with at least 4 different tokens")
    inputs, targets = _make_toy_text(rows.shape, ids, bool(setup.is_causal))
    if setup.is_causal:
        batch = make_text_batch(text, targets)
    else:
        batch = text.write(LabeledTokens(inputs, targets, torch.ones_like(targets, dtype=torch.bool)))
    expected = f"the lowest cross-entropy for {_describe_offset(0, setup)}, by {TOY_MARGIN} nats"
    chance, attempts = math.log(len(ids)), []
    for lr in TOY_LRS:
        with setup.preserved_state():
            loss, entropies = _train_on_toy_text(setup, text, batch, targets, lr)
        best = min(entropies, key=entropies.__getitem__)
        lead = min(entropy for offset, entropy in entropies.items() if offset != best) - entropies[best]
        attempts.append(f"LR {lr:g}: training loss {loss:.2f}, cross-entropy {_describe_entropies(entropies, setup)}")
        is_learned = lead > TOY_MARGIN and entropies[best] < chance
        if is_learned and best == 0:
            return passed(title, _describe_lead(entropies), expected)
        if is_learned or loss < chance - 2 * TOY_MARGIN:
            return failed(title, attempts[-1], expected, HINT)
    hint = "See the findings of gradients and overfit: the model learns nothing from this loss"
    return warned(title, f"not learned; {'; '.join(attempts)}", expected, hint)


def _make_toy_text(shape: torch.Size, ids: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """Return (inputs, targets) of `shape`, in which each of the ids is followed by the next one of a random cycle.

    For a causal model, both are the text; otherwise the target is the successor of the input at the same position.
    """
    generator = torch.Generator().manual_seed(0)
    ids = ids[torch.randperm(len(ids), generator=generator)]
    indices = torch.randint(len(ids), shape, generator=generator)
    if is_causal:
        indices = (indices[:, :1] + torch.arange(shape[1])) % len(ids)
    return ids[indices], ids[indices if is_causal else (indices + 1) % len(ids)]


def _train_on_toy_text(
    setup: TrainingSetup, text: TextFormat, batch: Any, rows: Tensor, lr: float
) -> tuple[float, Mapping[int, float]]:
    """Return (training loss, cross-entropy by offset) once one offset is learned or all steps are taken."""
    optimizer = torch.optim.AdamW(setup.trainable_parameters.values(), lr=lr, weight_decay=0.0)
    losses, entropies = [math.inf], _batch_entropies(setup, text, batch, rows)
    for loss in train_on_batch(setup, batch, [optimizer], TOY_STEPS):
        losses.append(loss)
        if len(losses) % 8 == 1:
            entropies = _batch_entropies(setup, text, batch, rows)
            first, second = sorted(entropies.values())[:2]
            if second - first > 2 * TOY_MARGIN and loss < losses[1] / 2:
                break
    return losses[-1], entropies


@torch.no_grad()
def _batch_entropies(setup: TrainingSetup, text: TextFormat, batch: Any, rows: Tensor) -> Mapping[int, float]:
    with eval_mode(setup.model):
        return _entropies_by_offset(text.logits(setup.model, batch), rows, setup)


def _entropies_by_offset(
    logits: Tensor,
    rows: Tensor,
    setup: TrainingSetup,
    positions: Tensor | None = None,
    targets: Tensor | None = None,
) -> Mapping[int, float]:
    """Return the mean cross-entropy of the logits against the text, by offset, in nats.

    The masks `positions` of the logits and `targets` in the text, both [rows, tokens], select what is averaged.
    """
    everywhere = torch.ones_like(rows, dtype=torch.bool).cpu()
    logits, rows = logits.float().cpu(), rows.cpu()
    positions = everywhere if positions is None else positions.cpu()
    targets = everywhere if targets is None else targets.cpu()
    entropies = {}
    for offset in OFFSETS:
        distance = _logit_distance(offset, setup)
        first, last = max(0, -distance), min(logits.shape[1], rows.shape[1] - distance)
        is_chosen = positions[:, first:last] & targets[:, first + distance : last + distance]
        chosen_rows = rows[:, first + distance : last + distance][is_chosen]
        entropies[offset] = F.cross_entropy(logits[:, first:last][is_chosen], chosen_rows).item()
    return entropies


def _logit_distance(offset: int, setup: TrainingSetup) -> int:
    """Return how many tokens after the logits' own position the token at `offset` is."""
    return offset + bool(setup.is_causal)


def _describe_offset(offset: int, setup: TrainingSetup) -> str:
    return _describe_distance(_logit_distance(offset, setup))


def _describe_distance(distance: int) -> str:
    names = {-1: "the previous token", 0: "the token itself", 1: "the next token"}
    return names.get(distance, f"the token {distance} ahead")


def _describe_lead(entropies: Mapping[int, float]) -> str:
    others = min(entropy for offset, entropy in entropies.items() if offset)
    return f"{entropies[0]:.2f} nats/token; at least {others:.2f} for neighboring tokens"


def _describe_entropies(entropies: Mapping[int, float], setup: TrainingSetup) -> str:
    return ", ".join(f"{entropies[offset]:.4f} of {_describe_offset(offset, setup)}" for offset in OFFSETS)
