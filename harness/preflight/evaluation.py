"""The validation loss means what it says: unit, coverage, batch size, and text that was not learned."""

import math
from collections.abc import Iterator

from harness.preflight.probe import has_reduced_precision
from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingData, TrainingSetup

BATCH_SIZES = (16, 13)
"""Of evaluation batches; one at least leaves a remainder, unless the examples are a multiple of 208."""
CLOSE, COARSE = 1e-5, 1e-3
"""Relative, of losses in batches of two sizes: of 32 bits, and of fewer."""
LEAKED, FEW = 0.01, 2
"""Share of validation examples that may be training examples too, and how many are never more than chance."""


def check(subject: TrainingSetup) -> Iterator[Finding]:
    """The loss in batches of two sizes, how much it scores, and what validation shares with training."""
    if subject.evaluate is None:
        yield Finding("not checked", "evaluation", "", "needs evaluate(batch_size)")
    else:
        yield from _check_evaluation(subject)
    yield _check_overlap(subject.data)
    yield from _check_tokenizer(subject.data)


def _check_evaluation(subject: TrainingSetup) -> Iterator[Finding]:
    first, second = (subject.evaluate(size) for size in BATCH_SIZES)
    unit = first.unit or "no unit given"
    yield Finding("pass" if first.unit else "warn", "unit", f"{unit}, the mean over {first.count:,}", "a unit", "")
    if first.count != second.count:
        seen = f"{first.count:,} scored in batches of {BATCH_SIZES[0]}, {second.count:,} in batches of {BATCH_SIZES[1]}"
        yield Finding("fail", "coverage", seen, "everything, whatever the batch", _TAIL_HINT)
    elif subject.to_score is None:
        yield Finding(
            "pass", "coverage", f"{first.count:,} scored in batches of {BATCH_SIZES[0]} and of {BATCH_SIZES[1]}"
        )
    else:
        share = first.count / subject.to_score
        seen = f"{first.count:,} of {subject.to_score:,} scored: {share:.2%}"
        level = "pass" if first.count == subject.to_score else "fail"
        yield Finding(level, "coverage", seen, "100%", "" if level == "pass" else _TAIL_HINT)
    seen = f"{first.loss:.6g} in batches of {BATCH_SIZES[0]}, {second.loss:.6g} in batches of {BATCH_SIZES[1]}"
    close = COARSE if has_reduced_precision(subject) else CLOSE
    expected = f"equal to {close:g}, relative"
    if math.isclose(first.loss, second.loss, rel_tol=close):
        yield Finding("pass", "loss by batch", seen, expected)
    else:
        look_at = "a mean of batch means, where a sum over a count is meant; padding that is scored; dropped tails"
        yield Finding("fail", "loss by batch", seen, expected, look_at)


_TAIL_HINT = "a last batch that is dropped (drop_last, //), and what is skipped at the end of the text"


def _check_overlap(data: TrainingData) -> Finding:
    """Exact duplicates of validation examples in training."""
    what = "validation examples in training"
    if data.train is None or data.val is None:
        return Finding("not checked", what, "", "needs data.train and data.val")
    held_out = [example for example in data.val if example not in ("", b"", ())]
    if not held_out:
        return Finding("fail", what, "there is no validation example", "some", "how the data is split")
    left = set(held_out)
    for example in data.train:
        left.discard(example)
    leaked = sum(example not in left for example in held_out)
    seen = f"{leaked:,} of {len(held_out):,}, {leaked / len(held_out):.2%}"
    if leaked >= FEW and leaked > LEAKED * len(held_out):
        look_at = "duplicates, which python -m harness clean drops, and a split that keeps copies together"
        return Finding("fail", what, seen, "none", look_at)
    return Finding("warn" if leaked else "pass", what, seen, "none", "duplicates: python -m harness clean drops them")


def _check_tokenizer(data: TrainingData) -> Iterator[Finding]:
    if data.tokenizer_saw_validation is None:
        return
    if data.tokenizer_saw_validation:
        look_at = "tokenizer.fit_on; runs that share this tokenizer can be compared all the same"
        yield Finding("warn", "tokenizer", "fitted on validation text too", "on training text alone", look_at)
    else:
        yield Finding("pass", "tokenizer", "fitted on training text alone")
