"""Check which parameters get a gradient in a few training steps, and which ones move."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import cycle, takewhile

import torch
from torch import Tensor, nn

from harness.preflight.outputs import locked_eval_mode
from harness.preflight.probe import (
    ROUNDING,
    advance_to_peak,
    affordable_repeats,
    affordable_tokens,
    format_names,
    set_peak_lrs,
    subsample_batch,
    train_on_batch,
)
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.step_gradients import TINY_RATIO
from harness.preflight.step_recorder import (
    choose_step_batches,
    compute_true_gradients,
    inner_product,
    measure_norm,
    recorded_step,
)
from harness.preflight.training_setup import TrainingSetup

STEPS = 4
MAX_CALLS = 20  # of `train_step`, if an optimizer is not stepped in each of them
MAX_SKIPPED = 32  # updates that a gradient scaler may skip because of overflow; it halves its scale each time
LR = 1e-3  # of AdamW, if no optimizer is given
LIST_SCALER = "List a gradient scaler in `extra_state`; without one, gradients must be finite"
MIN_COSINE = 0.5  # of the way to a trainable parameter, for frozen ones that follow it
MAX_STILL, MOST_STILL = 0.25, 0.5  # shares of the weights that rounding may leave unchanged


@dataclass
class _Coverage:
    """Largest gradient and LR of each parameter over the `taken` updates, and those not finite in the last update."""

    largest: dict[str, float]
    lrs: dict[str, float] = field(default_factory=dict)
    at_update: dict[str, float] = field(default_factory=dict)
    """Largest gradient of each parameter that an optimizer saw."""
    not_finite: list[str] = field(default_factory=list)
    stepped: set[int] = field(default_factory=set)
    """Ids of the optimizers that made an update."""
    taken: int = 0
    skipped: int = 0


def check_coverage(setup: TrainingSetup) -> Iterator[Finding]:
    """Take a few training steps and check which parameters got a gradient and which ones moved."""
    before = {name: parameter.detach().clone() for name, parameter in setup.model.named_parameters()}
    with locked_eval_mode(setup.model):
        batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
        expected = compute_true_gradients(setup, batch) or {}
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
    has_moved = False
    coverage, steps = _Coverage(dict.fromkeys(setup.trainable_parameters, 0.0)), affordable_repeats(setup.model, STEPS)
    advance_to_peak(setup)
    own_optimizers = setup.optimizer_list or [torch.optim.AdamW(setup.trainable_parameters.values(), lr=LR)]
    if setup.train_step is None and setup.optimizer_list:
        set_peak_lrs(setup)
    for batch in cycle(choose_step_batches(setup)):
        sums = _weight_sums(setup)
        with recorded_step(setup, keeps_gradients=False) as record:
            if setup.train_step is not None:
                setup.run_user_code("train_step", batch)
            else:
                for _ in train_on_batch(setup, batch, own_optimizers, 1):
                    pass
        coverage.stepped |= record.updates.keys()
        sizes = {name: size.item() for name, size in record.raw.items()}
        coverage.not_finite = [name for name, size in sizes.items() if not math.isfinite(size)]
        is_skipped = bool(coverage.not_finite) and sums == _weight_sums(setup)
        coverage.skipped += is_skipped
        coverage.taken += not is_skipped
        if not is_skipped:
            coverage.largest |= {name: max(size, coverage.largest[name]) for name, size in sizes.items()}
            coverage.lrs |= {name: max(lr, coverage.lrs.get(name, 0.0)) for name, lr in record.lrs.items()}
            coverage.at_update |= {
                name: max(size.item(), coverage.at_update.get(name, 0.0)) for name, size in record.final.items()
            }
        is_broken = bool(coverage.not_finite) and not is_skipped
        has_moved |= sums != _weight_sums(setup)
        is_waiting = setup.train_step is not None and len(coverage.stepped) < len(setup.optimizer_list)
        is_waiting &= bool(coverage.stepped) or not has_moved  # some updates are not made by torch's optimizers
        if (
            coverage.taken >= (MAX_CALLS * steps // STEPS if is_waiting else steps)
            or coverage.skipped > MAX_SKIPPED
            or is_broken
        ):
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
    if unmoved and not moved and setup.train_step is not None and not coverage.stepped:
        return skipped(title, f"needs an update in `train_step`; it made none in {coverage.taken} calls")
    if unmoved and (idle := _describe_idle_optimizers(setup, coverage)):
        hint = "Call step() of each optimizer in the training step"
        return failed(title, f"{observed}; {idle}", "an update by each optimizer", hint)
    if not unmoved:
        return passed(title, observed, expected)
    observed += f"; unmoved despite a gradient: {format_names(unmoved)}"
    groups = [group for optimizer in setup.optimizer_list for group in optimizer.param_groups]
    held = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    lrs = [coverage.lrs.get(name, held.get(id(setup.trainable_parameters[name]), 0.0)) for name in unmoved]
    shares = [coverage.at_update.get(name, 0.0) / largest[name] for name in unmoved]
    if all(lr > 0 for lr in lrs) and setup.train_step is not None and max(shares) < TINY_RATIO:
        observed += f"; {max(shares):.1g} of it is left at the update"
        return warned(title, observed, expected, "Look for what clears or clips gradients before the update")
    if all(lr > 0 for lr in lrs):
        return warned(title, observed, expected, "Raise the LR: it is too small for the precision of these weights")
    if not any(lrs) and len(unmoved) == len(largest) and not any(coverage.lrs.values()):
        return skipped(title, f"needs an LR above 0; it is 0 in the first {coverage.taken} steps")
    hint = "Look at which parameters the optimizer holds, and at the LR of each group"
    return failed(title, observed, expected, hint)


def _describe_idle_optimizers(setup: TrainingSetup, coverage: _Coverage) -> str:
    """Return which optimizers made no update although others did, with parameters that they hold."""
    names = {id(weight): name for name, weight in setup.trainable_parameters.items()}
    idle = []
    for index, optimizer in enumerate(setup.optimizer_list):
        if setup.train_step is not None and coverage.stepped and id(optimizer) not in coverage.stepped:
            held = [
                names[id(weight)]
                for group in optimizer.param_groups
                for weight in group["params"]
                if id(weight) in names
            ]
            position = f"optimizer {index + 1} of {len(setup.optimizer_list)}"
            idle.append(f"{position} ({type(optimizer).__name__}) is never stepped; it holds {format_names(held)}")
    return "; ".join(idle)


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
