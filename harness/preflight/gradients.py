"""Gradients are right, and reach all that is to be trained and nothing else."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.grad_coverage import check_grad_coverage
from harness.preflight.probe import (
    ROUNDING,
    affordable_repeats,
    affordable_tokens,
    eval_mode,
    format_names,
    measure_resolution,
    subsample_batch,
)
from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingSetup

REPEATED = 1e-3
"""Relative difference of two gradients of one batch, for devices that add up in no fixed order."""
SIZES = (1e-2, 3e-2, 3e-3, 1e-3)
"""Of what the weights are moved by, relative to them, in the order in which they are tried."""
AGREED = 0.05
"""Of the slope that such a direction has on average."""
NOISE = 2
"""Steps between two floating-point numbers that a loss may be off by."""
DIRECTIONS = 3
COARSE = 1e-4
"""A resolution (bfloat16, float16) in which a difference of two losses says nothing."""


def check(subject: TrainingSetup) -> Iterator[Finding]:
    if not subject.trainable_parameters:
        look = "requires_grad, and whether the adapters were put in"
        yield Finding("fail", "trainable parameters", "none", "one at least", look)
        return
    batch = subsample_batch(subject, subject.batches[0], affordable_tokens(subject.model))
    with eval_mode(subject.model):
        first = _compute_gradients(subject, batch)
        repeated = _check_repeatability(first, _compute_gradients(subject, batch))
        yield repeated
        if repeated.level == "pass":
            yield from _check_finite_differences(subject, batch, *first)
    yield from check_grad_coverage(subject)
    yield _check_optimizer_parameters(subject)


def _compute_gradients(subject: TrainingSetup, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """(loss, gradients by name) of a batch, of those that have one."""
    for parameter in subject.model.parameters():
        parameter.grad = None
    loss = subject.compute_loss(batch)
    if loss.requires_grad:
        loss.backward()
    found = {
        name: parameter.grad for name, parameter in subject.trainable_parameters.items() if parameter.grad is not None
    }
    return loss.item(), {name: gradient.detach().clone() for name, gradient in found.items()}


def _check_repeatability(one: tuple[float, Mapping[str, Tensor]], other: tuple[float, Mapping[str, Tensor]]) -> Finding:
    what, (first, gradients), (second, again) = "the same batch twice", one, other
    expected = "the same loss and the same gradients, with dropout off"
    if abs(first - second) > REPEATED * abs(first) or not math.isfinite(first):
        look = "what is drawn within the loss: noise, masks, dropout that eval() does not turn off"
        return Finding("warn", what, f"loss {first:.6g}, then {second:.6g}", expected, look)
    size = _global_norm(gradients)
    difference = _global_norm({name: gradient - again[name] for name, gradient in gradients.items() if name in again})
    seen = f"gradients of norm {size:.3g} that differ by {difference:.1e}"
    look = "hooks on parameters or modules, and whatever changes gradients between backward and the optimizer"
    level = "pass" if difference <= REPEATED * size and gradients.keys() == again.keys() else "fail"
    return Finding(level, what, seen, expected, look)


def _check_finite_differences(
    subject: TrainingSetup, batch: Any, loss: float, gradients: Mapping[str, Tensor]
) -> Iterator[Finding]:
    """The gradient against finite differences: along directions drawn over all weights and half along the gradient, and
    along what is said not to matter."""
    fine = measure_resolution(subject, batch)
    if fine > COARSE:
        needs = "needs float32: a difference of two losses says nothing in fewer digits"
        yield Finding("not checked", "gradients against finite differences", "", needs)
        return
    ruler = _SlopeMeter(subject, batch, NOISE * fine * max(abs(loss), 1e-3))
    yield _compare_slopes(ruler, gradients)
    largest = max((gradient.abs().max().item() for gradient in gradients.values()), default=0.0)
    silent = {
        name: parameter
        for name, parameter in subject.trainable_parameters.items()
        if name not in gradients or gradients[name].abs().max().item() <= ROUNDING * largest
    }
    if silent:
        yield from _check_missing_gradients(ruler, silent)


@dataclass(frozen=True)
class _SlopeMeter:
    """Measures slopes of the loss of `batch`; `noise` is how far off a loss is."""

    subject: TrainingSetup
    batch: Any
    noise: float

    @torch.no_grad()
    def measure_slope(self, direction: Mapping[str, Tensor], size: float) -> float:
        """By a central difference, per one `direction`."""
        losses = []
        kept = {name: self.subject.trainable_parameters[name].detach().clone() for name in direction}
        for sign in (1, -1):
            for name, part in direction.items():
                self.subject.trainable_parameters[name].copy_(kept[name] + sign * size * part)
            losses.append(self.subject.compute_loss(self.batch).item())
        for name, tensor in kept.items():
            self.subject.trainable_parameters[name].copy_(tensor)
        return (losses[0] - losses[1]) / (2 * size)

    def draw_direction(self, parameters: Mapping[str, Tensor], chance: torch.Generator) -> dict[str, Tensor]:
        """Drawn, each parameter's part as large as the parameter."""
        return {
            name: torch.randn(parameter.shape, generator=chance, dtype=parameter.dtype).to(parameter.device)
            * _typical_scale(parameter)
            for name, parameter in parameters.items()
        }


def _compare_slopes(ruler: _SlopeMeter, gradients: Mapping[str, Tensor]) -> Finding:
    """They agree to a share of the slope that such directions have by chance, at the best of the sizes at which that is
    more than rounding."""
    trainable, chance = ruler.subject.trainable_parameters, torch.Generator().manual_seed(0)
    size = _global_norm(gradients)
    drawn = [ruler.draw_direction(trainable, chance) for _ in range(affordable_repeats(ruler.subject, DIRECTIONS))]
    usual = math.sqrt(
        sum(_typical_scale(trainable[name]) ** 2 * _global_norm({name: of}) ** 2 for name, of in gradients.items())
    )
    for direction in drawn:  # and as steep along the gradient as they are by chance
        for name, gradient in gradients.items():
            direction[name] += gradient * (usual / size**2 if size else 0.0)
    said = [sum(_inner_product(gradients[name], direction[name]) for name in gradients) for direction in drawn]
    allowed = AGREED * usual
    sizes = [step for step in SIZES if ruler.noise / step <= allowed]
    what, expected = "gradients against finite differences", f"the same, within {allowed:.2g}"
    if not sizes:
        needs = f"slopes of {usual:.2g} drown in a rounding of {ruler.noise:.0e} of the loss"
        return Finding("not checked", what, "", needs)
    tried = []
    for step in sizes:
        tried.append(_slope_error(ruler, drawn, said, step))
        if tried[-1][0] <= allowed:
            break
    off, measured = min(tried)
    if off <= allowed:
        return Finding("pass", what, f"{len(said)} slopes, off by {off:.1g} where {usual:.2g} is usual", expected)
    seen = f"slopes {_format_slopes(said)} by the gradient, {_format_slopes(measured)} by moving the weights"
    look = "what stands outside the graph, no_grad() or detach(), on the way from the weights to the loss; hooks"
    return Finding("fail", what, seen, expected, look)


def _slope_error(
    ruler: _SlopeMeter, drawn: Sequence[Mapping[str, Tensor]], said: Sequence[float], step: float
) -> tuple[float, list[float]]:
    """(root mean square of the differences from what is `said`, slopes measured at this size of the step)."""
    found = [ruler.measure_slope(direction, step) for direction in drawn]
    return math.sqrt(sum((one - other) ** 2 for one, other in zip(found, said, strict=True)) / len(said)), found


def _check_missing_gradients(ruler: _SlopeMeter, silent: Mapping[str, nn.Parameter]) -> Iterator[Finding]:
    """Parameters without a gradient that matter all the same; an adapter's first half does not before the second."""
    direction = ruler.draw_direction(silent, torch.Generator().manual_seed(0))
    slopes = [ruler.measure_slope(direction, size) for size in SIZES[:2]]
    is_heard = all(abs(slope) > 4 * ruler.noise / size for slope, size in zip(slopes, SIZES, strict=False))
    is_steady = abs(slopes[0] - slopes[1]) < 0.5 * abs(slopes[1])  # a slope, and not the curvature of a saddle
    if is_heard and is_steady:
        seen = f"{len(silent)} of {len(ruler.subject.trainable_parameters)}: {format_names(list(silent))}"
        seen += f"; moving them changes the loss by {_format_slopes(slopes[-1:])} per one of their size"
        look = "what stands outside the graph, no_grad() or detach(): frozen means requires_grad=False, not outside it"
        yield Finding("fail", "parameters without a gradient", seen, "none that the loss depends on", look)


def _check_optimizer_parameters(subject: TrainingSetup) -> Finding:
    """The optimizers hold the trainable parameters and no others."""
    what, expected = "parameters in the optimizer", "exactly the trainable ones"
    if not subject.optimizer_list:
        return Finding("not checked", what, "", "needs `optimizer`")
    groups = [group for optimizer in subject.optimizer_list for group in optimizer.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    own = {id(parameter): name for name, parameter in subject.model.named_parameters()}
    missing = [name for name, parameter in subject.trainable_parameters.items() if id(parameter) not in held]
    frozen = [own[key] for key in held & own.keys() if own[key] not in subject.trainable_parameters]
    foreign = len(held - own.keys())
    seen = f"{len(subject.trainable_parameters) - len(missing)} of {len(subject.trainable_parameters)} trainable ones"
    seen += f"; missing: {format_names(missing)}" if missing else ""
    seen += f"; {foreign} that are not the model's" if foreign else ""
    seen += f"; frozen ones: {format_names(frozen)}" if frozen else ""
    look = "where the optimizer is made: after the model is complete, from its parameters that require a gradient"
    return Finding("fail" if missing or foreign else "warn" if frozen else "pass", what, seen, expected, look)


def _typical_scale(parameter: Tensor) -> float:
    """The root mean square of its values; where they are all 0, the size of a usual first weight."""
    return parameter.detach().abs().float().square().mean().sqrt().item() or 0.02


def _global_norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(tensor.abs().double().square().sum().item() for tensor in tensors.values()))


def _inner_product(one: Tensor, other: Tensor) -> float:
    """The real one, of complex numbers taken as pairs."""
    return (one.conj() * other).real.double().sum().item() if one.is_complex() else (one * other).double().sum().item()


def _format_slopes(numbers: list[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
