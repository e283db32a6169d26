"""Each position predicts the token it is meant to. The truth is read from the text and the logits, outside the loss."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.preflight.probe import (
    NEEDS_TEXT,
    affordable_tokens,
    eval_mode,
    extract_text_rows,
    make_text_batch,
    measure_resolution,
    train_on_batch,
)
from harness.preflight.report import Finding
from harness.preflight.training_setup import IGNORED, LabeledTokens, TextFormat, TrainingSetup

OFFSETS = (-1, 0, 1, 2)
"""Places further on in the text than the token that is meant."""
LOSS_TOLERANCE = 1e-3
"""Relative difference of two ways to compute one loss, in float32."""
LEARNED_MARGIN = 0.1
"""Nats by which a model that has learned tells one offset from another."""
KNOWN, KNOWN_BY_COPYING = 0.9, 0.25
"""Shares of ln(vocabulary) below which an offset is learned. With a tied head, random weights repeat their input."""
TOY_TOKENS, TOY_LRS, TOY_STEPS, TOY_MARGIN = 16, (3e-3, 1e-2, 3e-4), 48, 0.5
HINT = "how labels are made and who moves them: the collator or the model's own loss, never both"


def check(subject: TrainingSetup) -> Iterator[Finding]:
    text = subject.text
    if text is None:
        yield Finding("not checked", "labels against the text", "", NEEDS_TEXT)
        return
    if subject.is_causal:
        yield _check_labels(subject, text)
    yield _check_loss_offset(subject, text)
    yield _check_learned_offset(subject, text)
    yield _check_toy_text(subject, text)


def _check_labels(subject: TrainingSetup, text: TextFormat) -> Finding:
    """The labels of a model that predicts what follows are tokens of the text."""
    what = "labels in the batches"
    shares = dict.fromkeys(OFFSETS, 0.0)
    for tokens in map(text.read, subject.batches):
        for offset in OFFSETS:
            shares[offset] += _label_agreement(tokens, text.shift + offset) / len(subject.batches)
    best = max(shares, key=lambda offset: (shares[offset], offset == 0))
    seen = f"{shares[0]:.0%} of them are the token {_describe_distance(text.shift)}"
    expected = f"all of them the token {_describe_distance(text.shift)}"
    if best != 0 and shares[best] > shares[0] + 0.5:
        return Finding(
            "fail", what, f"{seen}, {shares[best]:.0%} that {_describe_distance(text.shift + best)}", expected, HINT
        )
    return Finding("pass" if shares[0] > 0.9 else "warn", what, seen, expected, HINT)


def _label_agreement(tokens: LabeledTokens, shift: int) -> float:
    """The share of the labels that are the token so much further on."""
    first, last = max(0, -shift), tokens.inputs.shape[1] - max(0, shift)
    labels, there = tokens.labels[:, first:last], tokens.inputs[:, first + shift : last + shift]
    is_scored = (labels != IGNORED) & tokens.is_real[:, first + shift : last + shift]
    return ((labels == there) & is_scored).sum().item() / max(1, is_scored.sum().item())


@torch.no_grad()
def _check_loss_offset(subject: TrainingSetup, text: TextFormat) -> Finding:
    """Whatever the weights, the loss is that of one offset."""
    what = "the loss against the logits"
    true = extract_text_rows(subject, text, affordable_tokens(subject.model))
    batch = make_text_batch(true, subject, text)
    with eval_mode(subject.model):
        loss, logits = subject.compute_loss(batch).item(), text.logits(subject.model, batch)
        tolerance = max(LOSS_TOLERANCE, 4 * measure_resolution(subject, batch))
    nats = _entropies_by_offset(logits, true, subject)
    far = {offset: abs(loss - value) / value for offset, value in nats.items()}
    nearest = min(far, key=far.__getitem__)
    seen = f"loss {loss:.4f}, cross-entropy {_describe_entropies(nats, subject)}"
    expected = f"the loss to be that of the token {_describe_offset(0, subject)}"
    if far[0] <= tolerance and far[0] <= 4 * far[nearest] + 1e-5:
        return Finding(
            "pass", what, f"loss {loss:.4f}; the token {_describe_offset(0, subject)} costs {nats[0]:.4f}", expected
        )
    if far[nearest] > tolerance:
        look = "whether more than cross-entropy is meant to be in it: label smoothing, a penalty, weights, another mean"
        return Finding("warn", what, f"{seen}: it is none of them", expected, look)
    seen += f": it is that of the token {_describe_offset(nearest, subject)}"
    return Finding("fail", what, seen + (", labels are shifted twice" if nearest == 1 else ""), expected, HINT)


@torch.no_grad()
def _check_learned_offset(subject: TrainingSetup, text: TextFormat) -> Finding:
    """What a trained model predicts is what is meant."""
    what = "what the weights have learned to predict"
    if not subject.is_pretrained:
        return Finding("not checked", what, "", "needs trained weights, and is_pretrained=True")
    tokens = text.read(subject.batches[0])
    rows = max(1, 4 * affordable_tokens(subject.model) // tokens.inputs.shape[1])
    tokens = LabeledTokens(tokens.inputs[:rows], tokens.labels[:rows], tokens.is_real[:rows])
    with eval_mode(subject.model):
        logits = text.logits(subject.model, text.write(tokens))
    is_scored = tokens.labels != IGNORED
    true = tokens.inputs if subject.is_causal else tokens.labels.where(is_scored, tokens.inputs)
    nats = _entropies_by_offset(
        logits, true, subject, at=tokens.is_real if subject.is_causal else is_scored, among=tokens.is_real
    )
    uniform = math.log(logits.shape[-1])
    best, seen = min(nats, key=nats.__getitem__), f"cross-entropy {_describe_entropies(nats, subject)}"
    expected = f"the token {_describe_offset(0, subject)} to cost least"
    if best == 0 and min(nats[offset] for offset in OFFSETS if offset) > nats[0] + LEARNED_MARGIN:
        return Finding("pass", what, _describe_lead(nats), expected)
    is_known = nats[best] < uniform * (KNOWN_BY_COPYING if _logit_distance(best, subject) == 0 else KNOWN)
    if best != 0 and is_known and nats[best] < nats[0] - LEARNED_MARGIN:
        return Finding("fail", what, seen, expected, "the labels that these weights were trained with; " + HINT)
    return Finding("not checked", what, "", f"needs weights that tell one token from another: {seen}")


def _check_toy_text(subject: TrainingSetup, text: TextFormat) -> Finding:
    """A rule that any such model learns in seconds: what follows a token, or what is shown for it, is fixed."""
    what = "a toy text in which the token alone says what is meant"
    rows = extract_text_rows(subject, text, affordable_tokens(subject.model))
    ids, counts = rows.unique(return_counts=True)
    ids = ids[counts.argsort(descending=True)[:TOY_TOKENS]]
    if len(ids) < 4:
        return Finding("not checked", what, "", "needs text of at least 4 different tokens")
    shown, true = _make_toy_text(rows.shape, ids, bool(subject.is_causal))
    batch = (
        make_text_batch(true, subject, text) if subject.is_causal else text.write(LabeledTokens(shown, true, true >= 0))
    )
    tried, expected = [], f"logits that know the token {_describe_offset(0, subject)}, by {TOY_MARGIN} nats from others"
    for lr in TOY_LRS:
        with subject.preserved_state():
            loss, nats = _train_on_toy_text(subject, text, batch, true, lr)
        best = min(nats, key=nats.__getitem__)
        lead = min(value for offset, value in nats.items() if offset != best) - nats[best]
        tried.append(f"LR {lr:g}: training loss {loss:.2f}, cross-entropy {_describe_entropies(nats, subject)}")
        chance = math.log(len(ids))
        is_learnt = lead > TOY_MARGIN and nats[best] < chance
        if is_learnt and best == 0:
            return Finding("pass", what, _describe_lead(nats), expected)
        if is_learnt or loss < chance - 2 * TOY_MARGIN:
            return Finding("fail", what, tried[-1], expected, HINT)
    look = "gradients and overfit below: nothing that this loss is given is learnt"
    return Finding("warn", what, "not learnt; " + "; ".join(tried), expected, look)


def _make_toy_text(shape: torch.Size, ids: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
    """(what is shown, what is meant) of `shape`, by a rule that turns the ids round."""
    chance = torch.Generator().manual_seed(0)
    ids = ids[torch.randperm(len(ids), generator=chance)]
    at = torch.randint(len(ids), shape, generator=chance)
    if is_causal:
        at = (at[:, :1] + torch.arange(shape[1])) % len(ids)
    return ids[at], ids[at if is_causal else (at + 1) % len(ids)]


def _train_on_toy_text(
    subject: TrainingSetup, text: TextFormat, batch: object, true: Tensor, lr: float
) -> tuple[float, Mapping[int, float]]:
    """(training loss, nats by offset) as soon as one offset is known, or after so many steps."""
    optimizer = torch.optim.AdamW(subject.trainable_parameters.values(), lr=lr, weight_decay=0.0)
    losses, nats = [math.inf], _batch_entropies(subject, text, batch, true)
    for loss in train_on_batch(subject, batch, [optimizer], TOY_STEPS):
        losses.append(loss)
        if len(losses) % 8 == 1:
            nats = _batch_entropies(subject, text, batch, true)
            first, second = sorted(nats.values())[:2]
            if second - first > 2 * TOY_MARGIN and loss < losses[1] / 2:
                break
    return losses[-1], nats


@torch.no_grad()
def _batch_entropies(subject: TrainingSetup, text: TextFormat, batch: object, true: Tensor) -> Mapping[int, float]:
    with eval_mode(subject.model):
        return _entropies_by_offset(text.logits(subject.model, batch), true, subject)


def _entropies_by_offset(
    logits: Tensor, true: Tensor, subject: TrainingSetup, at: Tensor | None = None, among: Tensor | None = None
) -> Mapping[int, float]:
    """By offset the mean cross-entropy of the logits against the text, of places `at` and tokens `among` if given."""
    everywhere = torch.ones_like(true, dtype=torch.bool)
    at, among = everywhere if at is None else at, everywhere if among is None else among
    logits, true, at, among = logits.float().cpu(), true.cpu(), at.cpu(), among.cpu()
    nats = {}
    for offset in OFFSETS:
        shift = _logit_distance(offset, subject)
        first, last = max(0, -shift), min(logits.shape[1], true.shape[1] - shift)
        chosen = at[:, first:last] & among[:, first + shift : last + shift]
        nats[offset] = F.cross_entropy(
            logits[:, first:last][chosen], true[:, first + shift : last + shift][chosen]
        ).item()
    return nats


def _logit_distance(offset: int, subject: TrainingSetup) -> int:
    """Places from that of the logits to that of the token."""
    return offset + bool(subject.is_causal)


def _describe_offset(offset: int, subject: TrainingSetup) -> str:
    return _describe_distance(_logit_distance(offset, subject))


def _describe_distance(distance: int) -> str:
    return {-1: "before", 0: "at the place itself", 1: "that follows"}.get(distance, f"{distance} places on")


def _describe_lead(nats: Mapping[int, float]) -> str:
    others = min(value for offset, value in nats.items() if offset)
    return f"{nats[0]:.2f} nats a token; at other places from {others:.2f}"


def _describe_entropies(nats: Mapping[int, float], subject: TrainingSetup) -> str:
    return ", ".join(f"{nats[offset]:.4f} of the token {_describe_offset(offset, subject)}" for offset in OFFSETS)
