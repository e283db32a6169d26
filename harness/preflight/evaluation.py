"""Check evaluation: it changes nothing, covers the validation set, and shares nothing with training."""

import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.state import eval_mode
from harness.preflight.batch_rows import count_examples, select_rows
from harness.preflight.passages import MAX_EXAMPLES, MAX_VAL_EXAMPLES, measure_shared_passages
from harness.preflight.probe import affordable_tokens, format_names, has_reduced_precision, subsample_batch
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.setup_values import EvalResult, TrainingData
from harness.preflight.training_setup import TrainingSetup, preserved_gradient_flags

# Evaluation batch sizes. At least one leaves a remainder, unless the number of examples is a multiple of 208.
BATCH_SIZES = (16, 13)
TOLERANCE, REDUCED_TOLERANCE = 1e-5, 1e-3  # relative, of losses in 32 and in fewer bits
MEAN_OF_MEANS = 0.05  # relative difference that batches of unequal numbers of tokens may cause
MAX_SHARED = 0.05  # of the validation examples
MAX_LEAKED_SHARE = 0.01  # of the validation examples
MIN_LEAKED = 2  # a single shared example may be chance
TAIL_HINT = "Look for a last batch that is dropped (drop_last, //), and at the end of the text"


def check(setup: TrainingSetup) -> Iterator[Finding]:
    """Compare evaluations with each other, weights before and after, and validation with training examples."""
    if setup.evaluate is None:
        yield skipped("evaluation", "needs `evaluate`")
    else:
        yield from _check_purity(setup)
        yield from _check_batch_size(setup)
    yield _check_overlap(setup.data)
    yield _check_shared_passages(setup.data)
    yield from _check_tokenizer(setup.data)


def _check_purity(setup: TrainingSetup) -> Iterator[Finding]:
    """Evaluate after a training step, as training does: in evaluation mode, and without a change to the weights."""
    if setup.train_step is not None:
        batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
        setup.run_user_code("train_step", batch)
    setup.model.train()
    active: list[str] = []
    names = {module: name for name, module in setup.model.named_modules()}

    def record(module: nn.Module, args: Any) -> None:
        if module.training:
            active.append(names[module])

    kinds = (nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
    hooks = [
        module.register_forward_pre_hook(record)
        for module in setup.model.modules()
        if isinstance(module, kinds) and getattr(module, "p", 1.0) > 0
    ]
    before = {name: value.clone() for name, value in setup.model.state_dict().items() if isinstance(value, Tensor)}
    is_enabled, trainable = torch.is_grad_enabled(), set(setup.trainable_parameters)
    with preserved_gradient_flags(setup.model):
        try:
            setup.call_evaluate(BATCH_SIZES[0])
        finally:
            for hook in hooks:
                hook.remove()
        is_switched_off = is_enabled and not torch.is_grad_enabled()
        frozen = sorted(trainable - setup.trainable_parameters.keys())
    if active:
        layers = sorted(set(active))
        observed = f"{len(layers)} layers of dropout or batch norm are in training mode: {format_names(layers)}"
        yield failed("mode", observed, "evaluation mode", "Call model.eval() at the start of the evaluation")
    yield from _judge_gradient_flags(is_switched_off, frozen)
    after = setup.model.state_dict()
    yield _judge_changes(setup, [name for name, value in before.items() if not torch.equal(value, after[name])])


def _judge_gradient_flags(is_switched_off: bool, frozen: list[str]) -> Iterator[Finding]:
    title, expected = "gradients after evaluation", "as before, so that training goes on"
    if is_switched_off:
        hint = "Evaluate in `with torch.no_grad():`; call torch.set_grad_enabled(True) after set_grad_enabled(False)"
        yield failed(title, "the evaluation leaves them switched off: the next step cannot train", expected, hint)
    if frozen:
        observed = f"the evaluation leaves {len(frozen)} weights frozen: {format_names(frozen)}"
        hint = "Evaluate in `with torch.no_grad():`, which needs no requires_grad_(False)"
        yield failed(title, observed, expected, hint)


def _judge_changes(setup: TrainingSetup, changed: list[str]) -> Finding:
    """Judge the tensors that an evaluation changed: weights and statistics of norms must stay, a cache need not."""
    title, expected = "weights after evaluation", "none changed"
    if not changed:
        return passed(title, "it changes none", expected)
    norms = {name for name, module in setup.model.named_modules() if isinstance(module, nn.modules.batchnorm._NormBase)}
    weights = dict(setup.model.named_parameters(remove_duplicate=False)).keys()
    kept = [name for name in changed if name in weights or name.rpartition(".")[0] in norms]
    if kept:
        observed = f"it changes {len(kept)} of {len(weights)} weights and statistics: {format_names(kept)}"
        hint = (
            "Restore the weights after the evaluation: averaged ones are copied in and not taken back; or call eval()"
        )
        return failed(title, observed, expected, hint)
    observed = f"it changes no weight, but {len(changed)} buffers: {format_names(changed)}"
    hint = "Ignore this for a cache; statistics and averages of training must not change (check self.training)"
    return warned(title, observed, expected, hint)


def _check_batch_size(setup: TrainingSetup) -> Iterator[Finding]:
    """Evaluate twice alike, and with another batch size."""
    first, again = setup.run_evaluation(BATCH_SIZES[0]), setup.run_evaluation(BATCH_SIZES[0])
    tolerance = REDUCED_TOLERANCE if has_reduced_precision(setup) else TOLERANCE
    size = f", the mean over {first.count:,}" if first.count is not None else ""
    yield passed("unit", f"{first.unit or 'not given (`unit` of EvalResult)'}{size}")
    if not math.isfinite(first.loss):
        hint = "Look for a validation set that is empty, a mean over nothing, overflow"
        yield failed("validation loss", f"{first.loss}", "a finite number", hint)
        return
    if not math.isclose(first.loss, again.loss, rel_tol=tolerance):
        observed = f"{first.loss:.6g}, then {again.loss:.6g}: it draws a sample; compare runs by more than this noise"
        yield passed("evaluated twice", observed)
        return
    yield passed("evaluated twice", f"{first.loss:.6g} both times")
    if not setup.takes_eval_batch_size:
        yield skipped("loss by batch size", "needs `evaluate(batch_size)`")
        return
    yield from _compare_sizes(setup, first, setup.run_evaluation(BATCH_SIZES[1]), tolerance)


def _compare_sizes(setup: TrainingSetup, first: EvalResult, second: EvalResult, tolerance: float) -> Iterator[Finding]:
    if first.count is not None and first.count != second.count:
        observed = f"{first.count:,} scored at batch size {BATCH_SIZES[0]}, {second.count or 0:,} at {BATCH_SIZES[1]}"
        yield failed("coverage", observed, "everything, at any batch size", TAIL_HINT)
    elif setup.eval_count is not None and first.count is not None:
        observed = f"{first.count:,} of {setup.eval_count:,} scored: {first.count / setup.eval_count:.2%}"
        yield passed_if(first.count == setup.eval_count, "coverage", observed, "100%", TAIL_HINT)
    elif first.count is not None:
        yield passed("coverage", f"{first.count:,} scored at batch sizes {' and '.join(map(str, BATCH_SIZES))}")
    title, change = "loss by batch size", abs(second.loss / first.loss - 1) if first.loss else abs(second.loss)
    observed = f"{first.loss:.6g} at batch size {BATCH_SIZES[0]}, {second.loss:.6g} at {BATCH_SIZES[1]}"
    expected = f"a relative difference of at most {tolerance:g}"
    if change <= tolerance:
        yield passed(title, observed, expected)
    elif _compares_rows(setup):
        yield passed(title, f"{observed}; the loss compares the examples of a batch")
    else:
        hint = "Look for a mean of batch means (divide a sum by a count instead), scored padding, dropped tails"
        if first.averages_batches:
            observed += ": a mean of the means of batches"
            parts = "tokens" if setup.text is not None else "scored elements"
            hint = f"Compare losses at one batch size only, or divide the sum over all {parts} by their number"
        result = warned if change <= MEAN_OF_MEANS or first.averages_batches else failed
        yield result(title, observed, expected, hint)


@torch.no_grad()
def _compares_rows(setup: TrainingSetup) -> bool:
    """Return whether the loss of a batch is not a mean of those of its rows, as in contrastive learning."""
    batch = setup.batches[0]
    size = count_examples(batch)
    if setup.text is not None or isinstance(batch, Mapping) or size is None or size < 4:
        return False
    with eval_mode(setup.model):
        parts = [select_rows(batch, slice(start, start + size // 2), size) for start in (0, size // 2)]
        losses = []
        for part in (select_rows(batch, slice(0, size // 2 * 2), size), *parts):
            torch.manual_seed(0)
            losses.append(setup.compute_loss(part).item())
    return abs(losses[0] - (losses[1] + losses[2]) / 2) > MEAN_OF_MEANS * abs(losses[0])


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


def _check_shared_passages(data: TrainingData) -> Finding:
    """Look for validation examples that are made of passages of the training data, such as overlapping windows."""
    title, needs = "passages of validation in training", "needs `data.train` and `data.val` as sequences of token ids"
    if data.train is None or data.val is None:
        return skipped(title, needs)
    train, val = list(islice(data.train, MAX_EXAMPLES)), list(islice(data.val, MAX_VAL_EXAMPLES))
    if not train or not val or not all(isinstance(each, tuple) for each in (train[0], val[0])):
        return skipped(title, needs)
    share, length = measure_shared_passages(train, val)
    if share is None:
        return skipped(title, "needs examples long enough to tell copies from chance")
    observed = f"{share:.0%} of the validation examples are mostly passages of {length} tokens that are in training"
    hint = "Split the documents before cutting windows, or leave a gap between the splits"
    result = failed if share > MAX_SHARED else passed
    return result(title, observed, f"at most {MAX_SHARED:.0%}", hint)


def _check_tokenizer(data: TrainingData) -> Iterator[Finding]:
    if data.tokenizer_saw_validation:
        hint = "See tokenizer.fit_on; runs that share this tokenizer can still be compared"
        yield warned("tokenizer", "fitted on validation text too", "fitted on training text only", hint)
    elif data.tokenizer_saw_validation is not None:
        yield passed("tokenizer", "fitted on training text only")
