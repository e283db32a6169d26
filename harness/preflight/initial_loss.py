"""Check the first loss: chance level for random weights, far below it for pretrained ones."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.probe import affordable_tokens, subsample_batch
from harness.preflight.report import Finding, Level, failed, passed, passed_if, skipped, warned
from harness.preflight.training_setup import TextFormat, TrainingSetup

TOLERANCE = 0.1  # random weights: relative difference from ln(vocabulary)
MIN_MARGIN = 0.2  # nats; with few tokens, random weights may be that far off by chance
OVERCONFIDENT = 1.5  # random weights: times ln(vocabulary) from which the initialization is wrong
MIN_ERROR_RATIO, MAX_ERROR_RATIO = 0.5, 3.0  # relative errors: times the loss of a model that outputs 0
FORWARD_TOKENS = 4  # times the tokens of an affordable training step, as there is no backward pass
MAX_COUNTED_TOKENS = 1_000_000  # of the training text
# Pretrained weights start below this share of ln(vocabulary). On narrow text, such as numbers, a healthy model may
# start above the entropy of the text's token frequencies.
UNTRAINED_SHARE = 0.8
MIN_OCCURRENCES, STANDARD_ERRORS = 8, 3
SAME_LOSS = 0.02  # relative difference of a loss from the cross-entropy of the logits
UNKNOWN_MARGIN = 0.7  # nats above a uniform guess: half its probability
TITLE = "first loss"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    with torch.no_grad(), eval_mode(setup.model):
        max_tokens = FORWARD_TOKENS * affordable_tokens(setup.model)
        batches = [subsample_batch(setup, batch, max_tokens) for batch in setup.batches]
        losses = torch.stack([setup.compute_loss(batch).detach().float().cpu().reshape(()) for batch in batches])
        loss = losses.mean().item()
        if not math.isfinite(loss):
            hint = "Look for non-finite values in the batch, overflow in the logits, a batch without scored tokens"
            yield failed(TITLE, f"{loss}", "a finite number", hint)
        elif setup.zero_output_loss is not None:
            yield _judge_relative_error(loss, setup.zero_output_loss, setup.is_pretrained)
        elif setup.text is not None:
            vocab_size = setup.compute_logits(batches[0]).shape[-1]
            nats = _score_logits(setup, setup.text, batches)
            mean = loss if nats is None else nats.mean().item()
            described = f"{mean:.3f} nats/token" + _describe_other_loss(loss, mean)
            if setup.is_pretrained:
                yield _judge_pretrained_weights(setup, setup.text, mean, described, vocab_size)
                yield from _check_unknown_embeddings(setup, setup.text)
            else:
                each = losses if nats is None else nats
                error = STANDARD_ERRORS * each.std().item() / len(each) ** 0.5 if len(each) > 1 else 0.0
                yield _judge_random_weights(mean, described, vocab_size, error)
        else:
            needs = "needs `text`, or `zero_output_loss` for a relative error"
            yield skipped(TITLE, f"{needs}; the loss is {loss:.4g}")


def _score_logits(setup: TrainingSetup, text: TextFormat, batches: Sequence[Any]) -> Tensor | None:
    """Return the cross-entropy per scored token of the logits for each batch, whatever the loss is made of.

    Return None if no token is scored, or if the labels are not among the logits.
    """
    nats, shift = [], int(bool(setup.is_causal) and not text.label_shift)
    for batch in batches:
        logits, labels = setup.compute_logits(batch).float(), text.read_tokens(batch).labels[:, shift:]
        is_scored = labels != IGNORE_INDEX
        if is_scored.any() and labels[is_scored].min() >= 0 and labels.max() < logits.shape[-1]:
            nats.append(F.cross_entropy(logits[:, : labels.shape[1]][is_scored], labels[is_scored]).cpu())
    return torch.stack(nats) if nats and all(map(torch.isfinite, nats)) else None


def _describe_other_loss(loss: float, nats: float) -> str:
    """Return the loss if it is not the cross-entropy: a sum, with weights, or with other terms."""
    return "" if math.isclose(loss, nats, rel_tol=SAME_LOSS) else f" by the logits (the loss is {loss:.4g})"


def _judge_random_weights(loss: float, described: str, vocab_size: int, error: float) -> Finding:
    uniform = math.log(vocab_size)
    observed = f"{described} from random weights, {loss / uniform - 1:+.0%} from a uniform guess"
    expected = f"ln {vocab_size} = {uniform:.3f} +- {TOLERANCE:.0%}"
    if loss + error < min((1 - TOLERANCE) * uniform, uniform - MIN_MARGIN):
        hint = "Check whether the model sees its targets; for pretrained weights, set is_pretrained=True"
        return warned(TITLE, observed, expected, hint)
    hint = "Look at the initialization: use a standard deviation of 0.02 or 1/sqrt(width) for embedding and head"
    level: Level = "fail"
    if loss < OVERCONFIDENT * uniform:
        level = "pass" if loss <= max((1 + TOLERANCE) * uniform, uniform + MIN_MARGIN) else "warn"
    return Finding(level, TITLE, observed, expected, hint)


def _judge_pretrained_weights(
    setup: TrainingSetup, text: TextFormat, loss: float, described: str, vocab_size: int
) -> Finding:
    uniform = math.log(vocab_size)
    # A small validation set's own frequencies fit it too well, so the training text's are used if they are higher.
    known = [setup.unigram_entropy] if setup.unigram_entropy is not None else []
    if setup.data.token_stream is not None:
        known.append(_stream_entropy(setup.data.token_stream))
    if known:
        unigram, source = max(known), "the text's token frequencies"
    else:
        unigram, source = _estimate_unigram_entropy(setup, text, uniform)
    observed = f"{described} from pretrained weights"
    expected = f"below {unigram:.3f}, the entropy of {source}, and far below ln {vocab_size} = {uniform:.3f}"
    if loss < unigram:
        return passed(TITLE, observed, expected)
    observed += ", worse than a uniform guess" if loss > uniform else ", worse than a guess that ignores the context"
    hint = "See alignment, then check that the weights were loaded: their names, the tokenizer of their training"
    if loss < UNTRAINED_SHARE * uniform:
        hint += "; on narrow text (numbers, code, templates) this may be normal"
        return warned(TITLE, observed, expected, hint)
    hint += "; no hyperparameter fixes this"
    return failed(TITLE, f"{observed}: broken, not under-tuned", expected, hint)


def _check_unknown_embeddings(setup: TrainingSetup, text: TextFormat) -> Iterator[Finding]:
    """Look for frequent tokens that the weights predict worse than a uniform guess and whose embeddings are frozen."""
    modules = [module for module in setup.model.modules() if isinstance(module, nn.Embedding)]
    if not setup.is_causal or not any(not module.weight.requires_grad for module in modules):
        return
    labels, nats, uniform = [], [], 0.0
    for batch in setup.batches:
        logits, tokens = setup.compute_logits(batch).float(), text.read_tokens(batch)
        shift = 0 if text.label_shift else 1
        targets = tokens.labels[:, shift:]
        is_scored = targets != IGNORE_INDEX
        each = F.cross_entropy(logits[:, : targets.shape[1]][is_scored], targets[is_scored], reduction="none")
        labels.append(targets[is_scored])
        nats.append(each)
        uniform = math.log(logits.shape[-1])
    ids, values, unknown = torch.cat(labels), torch.cat(nats), []
    for token, count in zip(*ids.unique(return_counts=True), strict=True):
        if count >= MIN_OCCURRENCES:
            its_values = values[ids == token]
            error = (its_values.std() / len(its_values) ** 0.5).item()
            if its_values.mean().item() > uniform + max(STANDARD_ERRORS * error, UNKNOWN_MARGIN):
                unknown.append(int(token))
    title = "frozen embeddings"
    if unknown:
        observed = (
            f"tokens {', '.join(map(str, unknown[:5]))} are frequent and unknown to the weights, which predict them "
        )
        observed += "worse than a uniform guess"
        hint = "Train the embeddings of new tokens, too (modules_to_save or trainable_token_indices in peft)"
        yield warned(title, observed, "embeddings that are trained, or tokens that are known", hint)
    else:
        yield passed(title, "all frequent tokens are known to the weights")


def _stream_entropy(stream: np.ndarray) -> float:
    tokens = torch.from_numpy(np.asarray(stream[:MAX_COUNTED_TOKENS]).astype(np.int64))
    return _count_entropy(tokens.unique(return_counts=True)[1])


def _estimate_unigram_entropy(setup: TrainingSetup, text: TextFormat, uniform: float) -> tuple[float, str]:
    """Return (entropy, its source), from the labels of the batches, corrected for their small number (Miller, 1955)."""
    labels = torch.cat([text.read_tokens(batch).labels.flatten() for batch in setup.batches])
    counts = labels[labels != IGNORE_INDEX].unique(return_counts=True)[1]
    entropy = _count_entropy(counts) + (len(counts) - 1) / (2 * counts.sum().item())
    return min(entropy, uniform), f"the frequencies of the {counts.sum().item()} tokens in these batches"


def _count_entropy(counts: Tensor) -> float:
    shares = counts.double() / counts.sum()
    return -(shares * shares.log()).sum().item()


def _judge_relative_error(loss: float, zero_loss: float, is_pretrained: bool) -> Finding:
    observed = f"{loss:.4g}, {loss / zero_loss:.2f} times the loss of a model that outputs 0"
    if is_pretrained:
        hint = "Check that the weights were loaded, and that the data is scaled as in their training"
        return passed_if(loss < zero_loss, TITLE, observed, f"below {zero_loss:g} for pretrained weights", hint)
    hint = "Check the scale of inputs and targets and their normalization; far below, the model sees its targets"
    result = passed if MIN_ERROR_RATIO < loss / zero_loss < MAX_ERROR_RATIO else warned
    return result(TITLE, observed, f"about {zero_loss:g}, the loss of random weights", hint)
