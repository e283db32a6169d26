"""The loss begins where such a model begins: chance for random weights, far below it for trained ones."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from harness.preflight.probe import affordable_tokens, eval_mode, subsample_batch
from harness.preflight.report import Finding
from harness.preflight.training_setup import IGNORED, TrainingSetup

BAND = 0.1
"""Share of ln(vocabulary) by which random weights differ from a uniform guess."""
FAR_ABOVE = 1.5
"""Times ln(vocabulary): random weights that are this sure of what they do not know are initialised wrongly."""
FAR_BELOW_ZERO, FAR_ABOVE_ZERO = 0.5, 3.0
"""Times the loss of a model that answers 0."""
TIMES = 4
"""Times the tokens of a step that can be afforded, of each batch: there is no way back to go."""
STREAM = 1_000_000
"""Tokens of the training text that are counted."""
UNTOLD = 0.8
"""Share of ln(vocabulary) above which no trained model begins; on narrow text, such as numbers, a healthy one may well
begin above what that text's own frequencies score."""


def check(subject: TrainingSetup) -> Iterator[Finding]:
    with torch.no_grad(), eval_mode(subject.model):
        batches = [
            subsample_batch(subject, batch, TIMES * affordable_tokens(subject.model)) for batch in subject.batches
        ]
        losses = torch.stack([subject.compute_loss(batch).detach().float().cpu() for batch in batches])
        loss = losses.mean().item()
        if not math.isfinite(loss):
            look = (
                "the batch for values that are not finite, the logits for overflow, a batch in which nothing is scored"
            )
            yield Finding("fail", "first loss", f"{loss}", "a finite number", look)
        elif subject.zero_predictor is not None:
            yield _judge_relative_error(subject, loss)
        elif subject.text is not None:
            vocabulary = subject.text.logits(subject.model, batches[0]).shape[-1]
            yield (
                _judge_pretrained_weights(subject, loss, vocabulary)
                if subject.is_pretrained
                else _judge_random_weights(subject, loss, vocabulary)
            )
        else:
            needs = f"the first loss is {loss:.4g}; to judge it needs `text`, or `zero_predictor` for a relative error"
            yield Finding("not checked", "first loss", "", needs)


def _judge_random_weights(subject: TrainingSetup, loss: float, vocabulary: int) -> Finding:
    uniform = math.log(vocabulary)
    seen = f"{loss:.3f} nats a token from random weights, {loss / uniform - 1:+.0%} from a uniform guess"
    expected = f"ln {vocabulary} = {uniform:.3f}, give or take {BAND:.0%}"
    if loss < (1 - BAND) * uniform:
        look = "whether the model sees what it is to predict; if the weights are trained ones, say is_pretrained=True"
        return Finding("warn", "first loss", seen, expected, look)
    look = "the size of the first weights: a standard deviation of 0.02, or 1/sqrt(width), for embedding and head"
    level = "pass" if loss <= (1 + BAND) * uniform else "warn" if loss < FAR_ABOVE * uniform else "fail"
    return Finding(level, "first loss", seen, expected, look)


def _judge_pretrained_weights(subject: TrainingSetup, loss: float, vocabulary: int) -> Finding:
    uniform = math.log(vocabulary)
    known = [
        entropy for entropy in (subject.unigram_entropy, _stream_entropy(subject.data.stream)) if entropy is not None
    ]
    unigram, source = (
        (max(known), "the text's own token frequencies") if known else _estimate_unigram_entropy(subject, uniform)
    )
    seen = f"{loss:.3f} nats a token from trained weights"
    expected = f"below {unigram:.3f}, what {source} score, and far below ln {vocabulary} = {uniform:.3f}"
    if loss < unigram:
        return Finding("pass", "first loss", seen, expected)
    seen += ", worse than a uniform guess" if loss > uniform else ", worse than a guess that ignores the context"
    look = "alignment, then whether the weights arrived: their names, the tokenizer that they were trained with"
    if loss < UNTOLD * uniform:
        look += "; where this text is narrow (numbers, code, templates), a base may begin so"
        return Finding("warn", "first loss", seen, expected, look)
    look += "; no tuning mends this"
    return Finding("fail", "first loss", f"{seen}: broken, not under-tuned", expected, look)


def _stream_entropy(stream: np.ndarray | None) -> float | None:
    """Of the training text: a small validation set's own frequencies say too much of it to be a guess."""
    if stream is None:
        return None
    return _count_entropy(torch.from_numpy(np.asarray(stream[:STREAM]).astype(np.int64)).unique(return_counts=True)[1])


def _estimate_unigram_entropy(subject: TrainingSetup, uniform: float) -> tuple[float, str]:
    """From the labels of the batches, corrected for how few they are (Miller, 1955)."""
    labels = torch.cat([subject.text.read(batch).labels.flatten() for batch in subject.batches])
    counts = labels[labels != IGNORED].unique(return_counts=True)[1]
    entropy = _count_entropy(counts) + (len(counts) - 1) / (2 * counts.sum().item())
    return min(entropy, uniform), f"the frequencies of these batches' {counts.sum().item()} tokens"


def _count_entropy(counts: Tensor) -> float:
    shares = counts.double() / counts.sum()
    return -(shares * shares.log()).sum().item()


def _judge_relative_error(subject: TrainingSetup, loss: float) -> Finding:
    zero = subject.zero_predictor
    seen, look = f"{loss:.4g}, {loss / zero:.2f} times what a model that answers 0 scores", "the scale of the targets"
    if subject.is_pretrained:
        level = "pass" if loss < zero else "fail"
        look = "whether the weights arrived, and the data are scaled as those that they were trained on"
        return Finding(level, "first loss", seen, f"below {zero:g}, for the weights are trained", look)
    level = "pass" if FAR_BELOW_ZERO < loss / zero < FAR_ABOVE_ZERO else "warn"
    look = "the scale of inputs and targets, which is normalised where; a loss far below sees its targets"
    return Finding(level, "first loss", seen, f"about {zero:g}, the loss of random weights", look)
