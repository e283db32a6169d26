"""Gradients are right, and reach all that is to be trained and nothing else."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.grad_coverage import reached
from harness.preflight.probe import ROUNDING, affordable, at_rest, few, fewer, named, resolution
from harness.preflight.report import Finding
from harness.preflight.training_setup import Subject

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


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.trainable:
        look = "requires_grad, and whether the adapters were put in"
        yield Finding("fail", "trainable parameters", "none", "one at least", look)
        return
    batch = few(subject, subject.batches[0], affordable(subject.model))
    with at_rest(subject.model):
        first = _gradients(subject, batch)
        repeated = _repeated(first, _gradients(subject, batch))
        yield repeated
        if repeated.level == "pass":
            yield from _slopes(subject, batch, *first)
    yield from reached(subject)
    yield _held(subject)


def _gradients(subject: Subject, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """(loss, gradients by name) of a batch, of those that have one."""
    for parameter in subject.model.parameters():
        parameter.grad = None
    loss = subject.loss(batch)
    if loss.requires_grad:
        loss.backward()
    found = {name: parameter.grad for name, parameter in subject.trainable.items() if parameter.grad is not None}
    return loss.item(), {name: gradient.detach().clone() for name, gradient in found.items()}


def _repeated(one: tuple[float, Mapping[str, Tensor]], other: tuple[float, Mapping[str, Tensor]]) -> Finding:
    what, (first, gradients), (second, again) = "the same batch twice", one, other
    expected = "the same loss and the same gradients, with dropout off"
    if abs(first - second) > REPEATED * abs(first) or not math.isfinite(first):
        look = "what is drawn within the loss: noise, masks, dropout that eval() does not turn off"
        return Finding("warn", what, f"loss {first:.6g}, then {second:.6g}", expected, look)
    size = _norm(gradients)
    difference = _norm({name: gradient - again[name] for name, gradient in gradients.items() if name in again})
    seen = f"gradients of norm {size:.3g} that differ by {difference:.1e}"
    look = "hooks on parameters or modules, and whatever changes gradients between backward and the optimizer"
    level = "pass" if difference <= REPEATED * size and gradients.keys() == again.keys() else "fail"
    return Finding(level, what, seen, expected, look)


def _slopes(subject: Subject, batch: Any, loss: float, gradients: Mapping[str, Tensor]) -> Iterator[Finding]:
    """The gradient against finite differences: along directions drawn over all weights and half along the gradient, and
    along what is said not to matter."""
    fine = resolution(subject, batch)
    if fine > COARSE:
        needs = "needs float32: a difference of two losses says nothing in fewer digits"
        yield Finding("not checked", "gradients against finite differences", "", needs)
        return
    ruler = _Ruler(subject, batch, NOISE * fine * max(abs(loss), 1e-3))
    yield _against_differences(ruler, gradients)
    largest = max((gradient.abs().max().item() for gradient in gradients.values()), default=0.0)
    silent = {
        name: parameter
        for name, parameter in subject.trainable.items()
        if name not in gradients or gradients[name].abs().max().item() <= ROUNDING * largest
    }
    if silent:
        yield from _silence(ruler, silent)


@dataclass(frozen=True)
class _Ruler:
    """Measures slopes of the loss of `batch`; `noise` is how far off a loss is."""

    subject: Subject
    batch: Any
    noise: float

    @torch.no_grad()
    def slope(self, direction: Mapping[str, Tensor], size: float) -> float:
        """By a central difference, per one `direction`."""
        losses = []
        kept = {name: self.subject.trainable[name].detach().clone() for name in direction}
        for sign in (1, -1):
            for name, part in direction.items():
                self.subject.trainable[name].copy_(kept[name] + sign * size * part)
            losses.append(self.subject.loss(self.batch).item())
        for name, tensor in kept.items():
            self.subject.trainable[name].copy_(tensor)
        return (losses[0] - losses[1]) / (2 * size)

    def direction(self, parameters: Mapping[str, Tensor], chance: torch.Generator) -> dict[str, Tensor]:
        """Drawn, each parameter's part as large as the parameter."""
        return {
            name: torch.randn(parameter.shape, generator=chance, dtype=parameter.dtype).to(parameter.device)
            * _scale(parameter)
            for name, parameter in parameters.items()
        }


def _against_differences(ruler: _Ruler, gradients: Mapping[str, Tensor]) -> Finding:
    """They agree to a share of the slope that such directions have by chance, at the best of the sizes at which that is
    more than rounding."""
    trainable, chance = ruler.subject.trainable, torch.Generator().manual_seed(0)
    size = _norm(gradients)
    drawn = [ruler.direction(trainable, chance) for _ in range(fewer(ruler.subject, DIRECTIONS))]
    usual = math.sqrt(sum(_scale(trainable[name]) ** 2 * _norm({name: of}) ** 2 for name, of in gradients.items()))
    for direction in drawn:  # and as steep along the gradient as they are by chance
        for name, gradient in gradients.items():
            direction[name] += gradient * (usual / size**2 if size else 0.0)
    said = [sum(_dot(gradients[name], direction[name]) for name in gradients) for direction in drawn]
    allowed = AGREED * usual
    sizes = [step for step in SIZES if ruler.noise / step <= allowed]
    what, expected = "gradients against finite differences", f"the same, within {allowed:.2g}"
    if not sizes:
        needs = f"slopes of {usual:.2g} drown in a rounding of {ruler.noise:.0e} of the loss"
        return Finding("not checked", what, "", needs)
    tried = []
    for step in sizes:
        tried.append(_off(ruler, drawn, said, step))
        if tried[-1][0] <= allowed:
            break
    off, measured = min(tried)
    if off <= allowed:
        return Finding("pass", what, f"{len(said)} slopes, off by {off:.1g} where {usual:.2g} is usual", expected)
    seen = f"slopes {_told(said)} by the gradient, {_told(measured)} by moving the weights"
    look = "what stands outside the graph, no_grad() or detach(), on the way from the weights to the loss; hooks"
    return Finding("fail", what, seen, expected, look)


def _off(
    ruler: _Ruler, drawn: Sequence[Mapping[str, Tensor]], said: Sequence[float], step: float
) -> tuple[float, list[float]]:
    """(root mean square of the differences from what is `said`, slopes measured at this size of the step)."""
    found = [ruler.slope(direction, step) for direction in drawn]
    return math.sqrt(sum((one - other) ** 2 for one, other in zip(found, said, strict=True)) / len(said)), found


def _silence(ruler: _Ruler, silent: Mapping[str, nn.Parameter]) -> Iterator[Finding]:
    """Parameters without a gradient that matter all the same; an adapter's first half does not before the second."""
    direction = ruler.direction(silent, torch.Generator().manual_seed(0))
    slopes = [ruler.slope(direction, size) for size in SIZES[:2]]
    is_heard = all(abs(slope) > 4 * ruler.noise / size for slope, size in zip(slopes, SIZES, strict=False))
    is_steady = abs(slopes[0] - slopes[1]) < 0.5 * abs(slopes[1])  # a slope, and not the curvature of a saddle
    if is_heard and is_steady:
        seen = f"{len(silent)} of {len(ruler.subject.trainable)}: {named(list(silent))}"
        seen += f"; moving them changes the loss by {_told(slopes[-1:])} per one of their size"
        look = "what stands outside the graph, no_grad() or detach(): frozen means requires_grad=False, not outside it"
        yield Finding("fail", "parameters without a gradient", seen, "none that the loss depends on", look)


def _held(subject: Subject) -> Finding:
    """The optimizers hold the trainable parameters and no others."""
    what, expected = "parameters in the optimizer", "exactly the trainable ones"
    if not subject.optimizers:
        return Finding("not checked", what, "", "needs `optimizer`")
    groups = [group for optimizer in subject.optimizers for group in optimizer.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    own = {id(parameter): name for name, parameter in subject.model.named_parameters()}
    missing = [name for name, parameter in subject.trainable.items() if id(parameter) not in held]
    frozen = [own[key] for key in held & own.keys() if own[key] not in subject.trainable]
    foreign = len(held - own.keys())
    seen = f"{len(subject.trainable) - len(missing)} of {len(subject.trainable)} trainable ones"
    seen += f"; missing: {named(missing)}" if missing else ""
    seen += f"; {foreign} that are not the model's" if foreign else ""
    seen += f"; frozen ones: {named(frozen)}" if frozen else ""
    look = "where the optimizer is made: after the model is complete, from its parameters that require a gradient"
    return Finding("fail" if missing or foreign else "warn" if frozen else "pass", what, seen, expected, look)


def _scale(parameter: Tensor) -> float:
    """The root mean square of its values; where they are all 0, the size of a usual first weight."""
    return parameter.detach().abs().float().square().mean().sqrt().item() or 0.02


def _norm(tensors: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(tensor.abs().double().square().sum().item() for tensor in tensors.values()))


def _dot(one: Tensor, other: Tensor) -> float:
    """The real one, of complex numbers taken as pairs."""
    return (one.conj() * other).real.double().sum().item() if one.is_complex() else (one * other).double().sum().item()


def _told(numbers: list[float]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)
