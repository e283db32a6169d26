"""Check the training step: it applies the gradient of the loss, once, to every trainable parameter."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.outputs import locked_eval_mode
from harness.preflight.probe import (
    ROUNDING,
    advance_to_peak,
    affordable_repeats,
    affordable_tokens,
    format_names,
    get_dense_grad,
    measure_resolution,
    needs_closure,
    set_peak_lrs,
    subsample_batch,
    train_on_batch,
)
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.step_gradients import StepGradients, judge_step_gradients
from harness.preflight.step_recorder import StepRecord, inner_product, measure_norm, recorded_step
from harness.preflight.training_setup import TrainingSetup

STEPS = 4
COMPARED_STEPS = 3
MAX_SKIPPED = 32  # updates that a gradient scaler may skip because of overflow; it halves its scale each time
LR = 1e-3  # of AdamW, if no optimizer is given
LIST_SCALER = "List a gradient scaler in `extra_state`; without one, gradients must be finite"
AFFORDABLE = 2e9  # parameters times tokens up to which steps are taken on complete batches
MIN_COSINE = 0.5  # of the way to a trainable parameter, for frozen ones that follow it
MAX_STILL, MOST_STILL = 0.25, 0.5  # shares of the weights that rounding may leave unchanged


def check(setup: TrainingSetup) -> Iterator[Finding]:
    if not setup.trainable_parameters:
        yield skipped("training step", "needs a trainable parameter")
        return
    with setup.preserved_state():
        compared = _compare_gradients(setup)
    yield compared
    if compared.level == "fail":
        return
    with setup.preserved_state():
        yield from _check_coverage(setup)
    with setup.preserved_state():
        yield from _check_mode(setup)


def _choose_batches(setup: TrainingSetup) -> list[Any]:
    """Return the batches as they are if a step on them is affordable, and otherwise their first rows."""
    tokens = setup.text.read_tokens(setup.batches[0]).inputs.numel() if setup.text is not None else 1
    if sum(weight.numel() for weight in setup.model.parameters()) * tokens <= AFFORDABLE:
        return list(setup.batches)
    return [subsample_batch(setup, batch, affordable_tokens(setup.model)) for batch in setup.batches]


def _compare_gradients(setup: TrainingSetup) -> Finding:
    """Compare what reaches the optimizer with the gradient of the loss at the same weights, in eval mode."""
    title = "gradient of the step"
    if setup.train_step is None or not setup.optimizer_list:
        return skipped(title, "needs `train_step` and `optimizer`")
    if any(map(needs_closure, setup.optimizer_list)):
        return skipped(title, "needs an optimizer that gets its gradients before its step; L-BFGS computes them itself")
    compared: list[StepGradients] = []
    advance_to_peak(setup)
    with locked_eval_mode(setup.model):
        batches = _choose_batches(setup)
        resolution = measure_resolution(setup, batches[0])
        for index in range(COMPARED_STEPS + MAX_SKIPPED):
            batch = batches[len(compared) % len(batches)]
            expected = _compute_true_gradients(setup, batch)
            if expected is None:
                return skipped(
                    title, "needs a loss that depends on the trainable parameters and draws no random numbers"
                )
            torch.manual_seed(0)
            with recorded_step(setup) as record:
                setup.run_user_code("train_step", batch)
            if not record.updates:
                if record.raw and any(not torch.isfinite(each).all() for each in record.raw.values()):
                    if not any(isinstance(part, torch.amp.GradScaler) for part in setup.extra_state):
                        observed = "gradients are not finite, and the update was skipped"
                        return warned(title, observed, "finite gradients", LIST_SCALER)
                    continue  # a gradient scaler skips the update
                if not record.raw or index >= MAX_SKIPPED or not setup.extra_state:
                    return skipped(
                        title, f"needs optimizer.step() in `train_step`; it made {_describe_updates(record)}"
                    )
                continue
            if not record.is_single_update:
                return skipped(title, f"needs one update in `train_step`; it made {_describe_updates(record)}")
            if record.raw and not record.final and not compared and any(map(_is_closure_like, setup.optimizer_list)):
                return skipped(title, "needs an optimizer that gets its gradients before its step")
            compared.append(StepGradients(expected, record.raw, record.final))
            if len(compared) == affordable_repeats(setup.model, COMPARED_STEPS):
                break
    return judge_step_gradients(title, compared, resolution)


def _is_closure_like(optimizer: torch.optim.Optimizer) -> bool:
    return not hasattr(optimizer, "param_groups")


def _describe_updates(record: StepRecord) -> str:
    return f"{sum(record.updates.values())} updates" if record.updates else "none"


def _compute_true_gradients(setup: TrainingSetup, batch: Any) -> dict[str, Tensor] | None:
    """Return the gradients of the loss, leaving those that are there; None if the loss is random or has none."""
    parameters = dict(setup.trainable_parameters)
    kept = {name: parameter.grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.grad = None
        torch.manual_seed(0)
        loss = setup.compute_loss(batch)
        if not loss.requires_grad or not torch.isfinite(loss):
            return None
        loss.backward()
        gradients = {name: get_dense_grad(parameter) for name, parameter in parameters.items()}
        with torch.no_grad():
            torch.manual_seed(1)
            again = setup.compute_loss(batch)
        if not math.isclose(loss.item(), again.item(), rel_tol=1e-3):
            return None
    finally:
        for name, parameter in parameters.items():
            parameter.grad = kept[name]
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


@dataclass
class _Coverage:
    """Largest gradient and LR of each parameter over the `taken` updates, and those not finite in the last update."""

    largest: dict[str, float]
    lrs: dict[str, float] = field(default_factory=dict)
    not_finite: list[str] = field(default_factory=list)
    taken: int = 0
    skipped: int = 0


def _check_coverage(setup: TrainingSetup) -> Iterator[Finding]:
    """Take a few training steps and check which parameters got a gradient and which ones moved."""
    before = {name: parameter.detach().clone() for name, parameter in setup.model.named_parameters()}
    with locked_eval_mode(setup.model):
        batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
        expected = _compute_true_gradients(setup, batch) or {}
    reachable = {name for name, gradient in expected.items() if gradient.any()}
    coverage = _train_and_record(setup)
    after = dict(setup.model.named_parameters())
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    yield _judge_gradients(setup, coverage, reachable)
    if setup.optimizer_list:
        yield _judge_updates(setup, moved, coverage)
        yield from _judge_rounding(setup, before, after, coverage)
    yield _judge_frozen(setup, before, after, moved - setup.trainable_parameters.keys())


@torch.no_grad()
def _judge_frozen(
    setup: TrainingSetup, before: Mapping[str, Tensor], after: Mapping[str, Tensor], moved: set[str]
) -> Finding:
    """Check that frozen parameters did not move, other than towards trainable ones, as an averaged teacher does."""
    title, n_frozen = "frozen parameters", len(before) - len(setup.trainable_parameters)
    observed = f"{len(moved)} of {n_frozen} moved" + (f": {format_names(sorted(moved))}" if moved else "")
    held = {
        id(weight)
        for optimizer in setup.optimizer_list
        for group in optimizer.param_groups
        for weight in group["params"]
    }
    hint = "Look for what else writes to the weights: an optimizer that holds them, weight averaging"
    if not moved or any(id(after[name]) in held for name in moved):
        return passed_if(not moved, title, observed, "none", hint)
    trainable = {name: after[name] for name in setup.trainable_parameters}
    if all(_follows_twin(name, before[name], after[name], trainable) for name in moved):
        return passed(title, f"{observed}; they follow trainable ones, as a teacher or target network does")
    return warned(title, f"{observed}; no listed optimizer holds them", "none", "Look for what writes to the weights")


def _follows_twin(name: str, before: Tensor, after: Tensor, trainable: Mapping[str, Tensor]) -> bool:
    """Return whether a parameter moved towards the trainable one of its shape whose name ends most alike."""
    twins = [twin for twin, weight in trainable.items() if weight.shape == after.shape]
    if not twins:
        return False
    twin = trainable[max(twins, key=lambda each: _count_common_ending(each, name))]
    change = after - before
    towards = _measure_cosine(change, twin - before)
    return towards > MIN_COSINE and towards > _measure_cosine(change, -before)  # not just decayed


def _measure_cosine(one: Tensor, other: Tensor) -> float:
    norms = measure_norm({"": one}) * measure_norm({"": other})
    return inner_product({"": one}, {"": other}) / norms if norms else 0.0


def _count_common_ending(one: str, other: str) -> int:
    pairs = zip(reversed(one.split(".")), reversed(other.split(".")), strict=False)
    return len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _train_and_record(setup: TrainingSetup) -> _Coverage:
    """Train at the peak LR until enough updates are taken, gradients are not finite, or too many are skipped."""
    coverage, steps = _Coverage(dict.fromkeys(setup.trainable_parameters, 0.0)), affordable_repeats(setup.model, STEPS)
    advance_to_peak(setup)
    own_optimizers = setup.optimizer_list or [torch.optim.AdamW(setup.trainable_parameters.values(), lr=LR)]
    if setup.train_step is None and setup.optimizer_list:
        set_peak_lrs(setup)
    for batch in cycle(_choose_batches(setup)):
        sums = _weight_sums(setup)
        with recorded_step(setup, keeps_gradients=False) as record:
            if setup.train_step is not None:
                setup.run_user_code("train_step", batch)
            else:
                for _ in train_on_batch(setup, batch, own_optimizers, 1):
                    pass
        sizes = {name: size.item() for name, size in record.raw.items()}
        coverage.not_finite = [name for name, size in sizes.items() if not math.isfinite(size)]
        is_skipped = bool(coverage.not_finite) and sums == _weight_sums(setup)
        coverage.skipped += is_skipped
        coverage.taken += not is_skipped
        if not is_skipped:
            coverage.largest |= {name: max(size, coverage.largest[name]) for name, size in sizes.items()}
            coverage.lrs |= {name: max(lr, coverage.lrs.get(name, 0.0)) for name, lr in record.lrs.items()}
        is_broken = bool(coverage.not_finite) and not is_skipped
        if coverage.taken == steps or coverage.skipped > MAX_SKIPPED or is_broken:
            break
    return coverage


@torch.no_grad()
def _weight_sums(setup: TrainingSetup) -> list[float]:
    """Return the sum of each trainable weight; an update changes at least one of them."""
    parameters = setup.trainable_parameters.values()
    weights = [torch.view_as_real(weight) if weight.is_complex() else weight for weight in parameters]
    return [weight.sum(dtype=torch.float64).item() for weight in weights]


def _judge_gradients(setup: TrainingSetup, coverage: _Coverage, reachable: set[str]) -> Finding:
    largest, title = coverage.largest, f"gradients in {coverage.taken} steps"
    expected = "a finite, nonzero gradient for every trainable parameter"
    if coverage.not_finite:
        names = format_names(coverage.not_finite)
        observed = f"not finite for {len(coverage.not_finite)} of {len(largest)} parameters: {names}"
        observed += f"; {coverage.skipped} updates were skipped" if coverage.skipped else ""
        return failed(title, observed, expected, "Look for overflow in float16, a division by 0, a logarithm of 0")
    without = [name for name, size in largest.items() if size == 0]
    if lost := [name for name in without if name in reachable]:
        observed = (
            f"{len(lost)} of {len(largest)} parameters have none in training, although they have one in eval mode: "
        )
        observed += format_names(lost)
        hint = "Look for what training mode does: checkpointing with use_reentrant=True on inputs without a gradient "
        hint += "(use_reentrant=False, enable_input_require_grads), no_grad, detach, another loss in the step"
        return failed(title, observed, expected, hint)
    if len(without) == len(largest):
        return failed(title, "no parameter has one", expected, "Check that the loss is part of the graph")
    observed = f"{len(largest) - len(without)} of {len(largest)} parameters have one"
    if rounding := [name for name, size in largest.items() if 0 < size <= ROUNDING * max(largest.values())]:
        observed += f", {len(rounding)} of them only rounding, as biases of attention keys"
    observed += f"; without: {format_names(without)}" if without else ""
    observed += f", after {coverage.skipped} updates skipped because of overflow" if coverage.skipped else ""
    if coverage.skipped and not any(isinstance(part, torch.amp.GradScaler) for part in setup.extra_state):
        return warned(title, observed, expected, LIST_SCALER)
    return (warned if without else passed)(title, observed, expected, "Freeze or remove modules that are never called")


def _judge_updates(setup: TrainingSetup, moved: set[str], coverage: _Coverage) -> Finding:
    """Check that the optimizer moved all parameters with a gradient."""
    largest = coverage.largest
    smallest = ROUNDING * max(largest.values())
    unmoved = [name for name, size in largest.items() if size > smallest and name not in moved]
    rounded = {
        name for name in unmoved if setup.trainable_parameters[name].dtype.itemsize < 4 and coverage.lrs.get(name)
    }
    unmoved = [name for name in unmoved if name not in rounded]  # judged by their share of all weights
    title, observed = (
        f"updates in {coverage.taken} steps",
        f"{len(largest) - len(unmoved) - len(rounded)} of {len(largest)} moved",
    )
    expected = "every trainable parameter moves"
    if not unmoved:
        return passed(title, observed, expected)
    observed += f"; unmoved despite a gradient: {format_names(unmoved)}"
    groups = [group for optimizer in setup.optimizer_list for group in optimizer.param_groups]
    held = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    lrs = [coverage.lrs.get(name, held.get(id(setup.trainable_parameters[name]), 0.0)) for name in unmoved]
    if all(lr > 0 for lr in lrs):
        return warned(title, observed, expected, "Raise the LR: it is too small for the precision of these weights")
    if not any(lrs) and len(unmoved) == len(largest) and not any(coverage.lrs.values()):
        return skipped(title, f"needs an LR above 0; it is 0 in the first {coverage.taken} steps")
    hint = "Look at which parameters the optimizer holds, and at the LR of each group"
    return failed(title, observed, expected, hint)


@torch.no_grad()
def _judge_rounding(
    setup: TrainingSetup, before: Mapping[str, Tensor], after: Mapping[str, nn.Parameter], coverage: _Coverage
) -> Iterator[Finding]:
    """Check which share of the weights in fewer than 32 bits an update changes at all."""
    still = total = 0
    for name, parameter in setup.trainable_parameters.items():
        if parameter.dtype.itemsize < 4 and coverage.largest[name] > 0 and not parameter.is_complex():
            still += int((before[name] == after[name]).sum())
            total += parameter.numel()
    if not total or not any(coverage.lrs.values()):
        return
    dtype = str(next(each.dtype for each in before.values() if each.dtype.itemsize < 4)).removeprefix("torch.")
    observed = f"{still / total:.0%} of the weights stay as they are in {coverage.taken} steps at LR "
    observed += f"{max(coverage.lrs.values()):.2g}: updates below half a unit in the last place of {dtype} are lost"
    expected = f"most weights to move, at most {MAX_STILL:.0%} not"
    hint = "Keep the weights in float32 and use autocast (bf16=True), or round stochastically"
    result = failed if still > MOST_STILL * total else warned if still > MAX_STILL * total else passed
    yield result(f"rounding to {dtype}", observed, expected, hint)


def _check_mode(setup: TrainingSetup) -> Iterator[Finding]:
    """Check that a step after an evaluation trains in training mode, where dropout and batch norm are in effect."""
    if setup.train_step is None or setup.evaluate is None:
        return
    active = [
        module for module in setup.model.modules()
        if (isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0)
        or isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]  # fmt: skip
    if not active:
        return
    batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
    setup.model.train()
    setup.run_user_code("train_step", batch)
    setup.run_evaluation(16)
    with recorded_step(setup, keeps_gradients=False) as record:
        setup.run_user_code("train_step", batch)
    if not record.n_forwards:
        return
    observed = (
        f"after an evaluation, the step trains in eval mode: {len(active)} layers of dropout or batch norm are off"
    )
    hint = "Call model.train() in the training step, or at the end of the evaluation"
    title = "training mode"
    yield (
        passed(title, "restored after an evaluation")
        if record.was_training
        else warned(title, observed, "training mode", hint)
    )
