"""Check which parameters a few training steps reach: every trainable one with a finite gradient, and no frozen one."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
from torch import Tensor

from harness.preflight.probe import (
    ROUNDING,
    affordable_repeats,
    affordable_tokens,
    format_names,
    subsample_batch,
    train_on_batch,
)
from harness.preflight.report import Finding, failed, passed, passed_if, warned
from harness.preflight.training_setup import TrainingSetup

STEPS = 4
MAX_SKIPPED = 32  # updates that a gradient scaler may skip because of overflow; it halves its scale each time
LR = 1e-3  # of AdamW, if no optimizer is given


def check_grad_coverage(setup: TrainingSetup) -> Iterator[Finding]:
    """Take a few training steps and check which parameters got a gradient and which ones moved."""
    trainable = setup.trainable_parameters
    before = {name: parameter.detach().clone() for name, parameter in setup.model.named_parameters()}
    coverage = _train_and_record(setup)
    after = dict(setup.model.named_parameters())
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    yield _judge_gradients(setup, coverage)
    if setup.optimizer_list:
        yield _judge_updates(setup, moved, coverage)
    moved_frozen = sorted(moved - trainable.keys())
    observed = f"{len(moved_frozen)} of {len(before) - len(trainable)} moved"
    observed += f": {format_names(moved_frozen)}" if moved_frozen else ""
    hint = "Look for what else writes to the weights: an optimizer that holds them, weight averaging"
    yield passed_if(not moved_frozen, "frozen parameters", observed, "none", hint)


@dataclass
class _GradCoverage:
    """Largest gradient of each parameter over the `taken` updates, and those not finite in the last update."""

    largest: dict[str, float]
    not_finite: Sequence[str] = ()
    taken: int = 0
    skipped: int = 0


def _train_and_record(setup: TrainingSetup) -> _GradCoverage:
    """Train until enough updates are taken, one has gradients that are not finite, or too many are skipped."""
    coverage, sizes = _GradCoverage(dict.fromkeys(setup.trainable_parameters, 0.0)), dict[str, float]()

    def make_hook(name: str) -> Callable[[Tensor], None]:
        def record_size(parameter: Tensor) -> None:
            assert parameter.grad is not None
            size = parameter.grad.detach().abs().max().item()
            sizes[name] = max(sizes.get(name, 0.0), size if math.isfinite(size) else math.inf)

        return record_size

    hooks = [
        parameter.register_post_accumulate_grad_hook(make_hook(name))
        for name, parameter in setup.trainable_parameters.items()
    ]
    steps, sums = affordable_repeats(setup.model, STEPS), _weight_sums(setup)
    try:
        for _ in _training_steps(setup):
            previous_sums, sums = sums, _weight_sums(setup)
            coverage.not_finite = [name for name, size in sizes.items() if math.isinf(size)]
            is_skipped = bool(coverage.not_finite) and sums == previous_sums
            if is_skipped:
                coverage.skipped += 1
            else:
                coverage.taken += 1
                coverage.largest |= {name: max(size, coverage.largest[name]) for name, size in sizes.items()}
            sizes.clear()
            is_broken = bool(coverage.not_finite) and not is_skipped
            if coverage.taken == steps or coverage.skipped > MAX_SKIPPED or is_broken:
                break
    finally:
        for hook in hooks:
            hook.remove()
    return coverage


def _training_steps(setup: TrainingSetup) -> Iterator[None]:
    """Take steps with `train_step`, or else with the optimizer, or else with AdamW."""
    max_tokens = affordable_tokens(setup.model)
    optimizers = setup.optimizer_list or [torch.optim.AdamW(setup.trainable_parameters.values(), lr=LR)]
    for batch in cycle([subsample_batch(setup, batch, max_tokens) for batch in setup.batches]):
        if setup.train_step is not None:
            setup.train_step(batch)
        else:
            for _ in train_on_batch(setup, batch, optimizers, 1):
                pass
        yield


@torch.no_grad()
def _weight_sums(setup: TrainingSetup) -> list[float]:
    """Return the sum of each trainable weight; an update changes at least one of them."""
    parameters = setup.trainable_parameters.values()
    weights = [torch.view_as_real(weight) if weight.is_complex() else weight for weight in parameters]
    return [weight.sum(dtype=torch.float64).item() for weight in weights]


def _judge_gradients(setup: TrainingSetup, coverage: _GradCoverage) -> Finding:
    largest, title = coverage.largest, f"gradients in {coverage.taken} steps"
    expected = "a finite, nonzero gradient for every trainable parameter"
    if coverage.not_finite:
        names = format_names(coverage.not_finite)
        observed = f"not finite for {len(coverage.not_finite)} of {len(largest)} parameters: {names}"
        observed += f"; {coverage.skipped} updates were skipped" if coverage.skipped else ""
        return failed(title, observed, expected, "Look for overflow in float16, a division by 0, a logarithm of 0")
    without = [name for name, size in largest.items() if size == 0]
    if len(without) == len(largest):
        return failed(title, "no parameter has one", expected, "Check that the loss is part of the graph")
    observed = f"{len(largest) - len(without)} of {len(largest)} parameters have one"
    if rounding := [name for name, size in largest.items() if 0 < size <= ROUNDING * max(largest.values())]:
        observed += f", {len(rounding)} of them only rounding, as biases of attention keys"
    observed += f"; without: {format_names(without)}" if without else ""
    observed += f", after {coverage.skipped} updates skipped because of overflow" if coverage.skipped else ""
    if coverage.skipped and not any(isinstance(part, torch.amp.GradScaler) for part in setup.extra_state):
        hint = "List a gradient scaler in `extra_state`; without one, gradients must be finite"
        return warned(title, observed, expected, hint)
    hint = "Freeze or remove modules that are never called"
    return (warned if without else passed)(title, observed, expected, hint)


def _judge_updates(setup: TrainingSetup, moved: set[str], coverage: _GradCoverage) -> Finding:
    """Check that the optimizer moved all parameters with a gradient."""
    largest = coverage.largest
    unmoved = [name for name, size in largest.items() if size > 0 and name not in moved]
    title, observed = f"updates in {coverage.taken} steps", f"{len(largest) - len(unmoved)} of {len(largest)} moved"
    expected = "every trainable parameter moves"
    if not unmoved:
        return passed(title, observed, expected)
    groups = [group for optimizer in setup.optimizer_list for group in optimizer.param_groups]
    lrs = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    observed += f"; unmoved despite a gradient: {format_names(unmoved)}"
    if all(lrs.get(id(setup.trainable_parameters[name]), 0.0) > 0 for name in unmoved):
        return warned(title, observed, expected, "Raise the LR: it is too small for the precision of these weights")
    return failed(
        title, observed, expected, "Look at which parameters the optimizer holds, and at the LR of each group"
    )
