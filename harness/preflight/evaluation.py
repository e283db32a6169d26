"""Check the validation loss: its unit, its coverage, its independence of the batch size, and leakage."""

import math
from collections.abc import Iterator

from harness.preflight.probe import has_reduced_precision
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.training_setup import TrainingData, TrainingSetup

# Evaluation batch sizes. At least one leaves a remainder, unless the number of examples is a multiple of 208.
BATCH_SIZES = (16, 13)
TOLERANCE, REDUCED_TOLERANCE = 1e-5, 1e-3  # relative, of losses in 32 and in fewer bits
MAX_LEAKED_SHARE = 0.01  # of the validation examples
MIN_LEAKED = 2  # a single shared example may be chance
TAIL_HINT = "Look for a last batch that is dropped (drop_last, //), and at the end of the text"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    """Compare the loss in batches of two sizes, and validation with training examples."""
    if setup.evaluate is None:
        yield skipped("evaluation", "needs `evaluate`")
    else:
        yield from _check_evaluation(setup)
    yield _check_overlap(setup.data)
    yield from _check_tokenizer(setup.data)


def _check_evaluation(setup: TrainingSetup) -> Iterator[Finding]:
    assert setup.evaluate is not None
    first, second = (setup.evaluate(size) for size in BATCH_SIZES)
    unit = passed if first.unit else warned
    yield unit("unit", f"{first.unit or 'none'}, the mean over {first.count:,}", "a unit", "Set `unit` of EvalResult")
    if first.count != second.count:
        observed = f"{first.count:,} scored at batch size {BATCH_SIZES[0]}, {second.count:,} at {BATCH_SIZES[1]}"
        yield failed("coverage", observed, "everything, at any batch size", TAIL_HINT)
    elif setup.eval_count is None:
        sizes = " and ".join(map(str, BATCH_SIZES))
        yield passed("coverage", f"{first.count:,} scored at batch sizes {sizes}")
    else:
        observed = f"{first.count:,} of {setup.eval_count:,} scored: {first.count / setup.eval_count:.2%}"
        yield passed_if(first.count == setup.eval_count, "coverage", observed, "100%", TAIL_HINT)
    tolerance = REDUCED_TOLERANCE if has_reduced_precision(setup) else TOLERANCE
    yield passed_if(
        math.isclose(first.loss, second.loss, rel_tol=tolerance),
        "loss by batch size",
        f"{first.loss:.6g} at batch size {BATCH_SIZES[0]}, {second.loss:.6g} at {BATCH_SIZES[1]}",
        f"a relative difference of at most {tolerance:g}",
        "Look for a mean of batch means (divide a sum by a count instead), scored padding, dropped tails",
    )


def _check_overlap(data: TrainingData) -> Finding:
    """Look for exact copies of validation examples in the training data."""
    title = "validation examples in training"
    if data.train is None or data.val is None:
        return skipped(title, "needs `data.train` and `data.val`")
    val = [example for example in data.val if example not in ("", b"", ())]
    if not val:
        return failed(title, "there are no validation examples", "some", "Look at how the data is split")
    unseen = set(val).difference(data.train)
    leaked = sum(example not in unseen for example in val)
    observed = f"{leaked:,} of {len(val):,}, {leaked / len(val):.2%}"
    if leaked >= MIN_LEAKED and leaked > MAX_LEAKED_SHARE * len(val):
        hint = "Remove duplicates (plateau clean), or split so that copies stay together"
        return failed(title, observed, "none", hint)
    hint = "Look for duplicates; plateau clean removes them"
    return (warned if leaked else passed)(title, observed, "none", hint)


def _check_tokenizer(data: TrainingData) -> Iterator[Finding]:
    if data.tokenizer_saw_validation:
        hint = "See tokenizer.fit_on; runs that share this tokenizer can still be compared"
        yield warned("tokenizer", "fitted on validation text too", "fitted on training text only", hint)
    elif data.tokenizer_saw_validation is not None:
        yield passed("tokenizer", "fitted on training text only")
