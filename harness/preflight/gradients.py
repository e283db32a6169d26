"""Gradients are right, and reach all that is to be trained and nothing else."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.findings import Finding
from harness.preflight.probe import affordable, at_rest, descend, few, named, resolution
from harness.preflight.subject import Subject

STEPS = 4
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
ROUNDING = 1e-6
"""Of the largest gradient: what is 0 but for rounding."""
LR = 1e-3
"""Of AdamW, where there is no optimizer."""


def check(subject: Subject) -> Iterator[Finding]:
    if not subject.trainable:
        look = "requires_grad, and whether the adapters were put in"
        yield Finding("fail", "trainable parameters", "none", "one at least", look)
        return
    batch = few(subject, subject.batches[0], affordable(subject.model))
    with at_rest(subject.model):
        repeated = _repeated(subject, batch)
        yield repeated
        if repeated.level == "pass":
            yield from _slopes(subject, batch)
    yield from _steps(subject)
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


def _repeated(subject: Subject, batch: Any) -> Finding:
    what = "the same batch twice"
    (first, gradients), (second, again) = _gradients(subject, batch), _gradients(subject, batch)
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


def _slopes(subject: Subject, batch: Any) -> Iterator[Finding]:
    """The gradient against finite differences: along directions drawn over all weights and half along the gradient, and
    along what is said not to matter."""
    loss, gradients = _gradients(subject, batch)
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
        yield _silence(ruler, silent)


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
    drawn = [ruler.direction(trainable, chance) for _ in range(DIRECTIONS)]
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
    seen = f"slopes {_told(said)} by the gradient, {_told(measured)} by moving the weights"
    look = "what stands outside the graph, no_grad() or detach(), on the way from the weights to the loss; hooks"
    return Finding("pass" if off <= allowed else "fail", what, seen, expected, look)


def _off(
    ruler: _Ruler, drawn: Sequence[Mapping[str, Tensor]], said: Sequence[float], step: float
) -> tuple[float, list[float]]:
    """(root mean square of the differences from what is `said`, slopes measured at this size of the step)."""
    found = [ruler.slope(direction, step) for direction in drawn]
    return math.sqrt(sum((one - other) ** 2 for one, other in zip(found, said, strict=True)) / len(said)), found


def _silence(ruler: _Ruler, silent: Mapping[str, nn.Parameter]) -> Finding:
    """Parameters whose gradient is 0 or missing do not matter, as an adapter's second half does not at the start."""
    direction = ruler.direction(silent, torch.Generator().manual_seed(0))
    slopes = [ruler.slope(direction, size) for size in SIZES[:2]]
    is_heard = all(abs(slope) > 4 * ruler.noise / size for slope, size in zip(slopes, SIZES, strict=False))
    is_steady = abs(slopes[0] - slopes[1]) < 0.5 * abs(slopes[1])  # a slope, and not the curvature of a saddle
    what, seen = (
        "parameters without a gradient",
        f"{len(silent)} of {len(ruler.subject.trainable)}: {named(list(silent))}",
    )
    if is_heard and is_steady:
        seen += f"; moving them changes the loss by {_told(slopes[-1:])} per one of their size"
        look = "what stands outside the graph, no_grad() or detach(): frozen means requires_grad=False, not outside it"
        return Finding("fail", what, seen, "none that the loss depends on", look)
    return Finding("pass", what, f"{seen}; the loss does not depend on them now", "none that the loss depends on")


def _steps(subject: Subject) -> Iterator[Finding]:
    """What a few steps of training reach."""
    trainable = subject.trainable
    frozen = {name: of for name, of in subject.model.named_parameters() if name not in trainable}
    before = {name: of.detach().clone() for name, of in subject.model.named_parameters()}
    largest, broken = dict.fromkeys(trainable, 0.0), {}

    def heard(name: str) -> Callable[[Tensor], None]:
        def look(parameter: Tensor) -> None:
            size = parameter.grad.detach().abs().max().item()
            largest[name] = max(largest[name], size)
            if not math.isfinite(size):
                broken.setdefault(name, size)

        return look

    hooks = [of.register_post_accumulate_grad_hook(heard(name)) for name, of in trainable.items()]
    try:
        _train(subject)
    finally:
        for hook in hooks:
            hook.remove()
    now = dict(subject.model.named_parameters())
    moved = {name for name, tensor in before.items() if not torch.equal(tensor, now[name])}
    yield _reached(largest, broken)
    if subject.optimizers:
        yield _moved(subject, moved, largest)
    yield Finding(
        "fail" if moved & frozen.keys() else "pass",
        "frozen parameters",
        f"{len(moved & frozen.keys())} of {len(frozen)} moved{_which(moved & frozen.keys())}",
        "none",
        "what else writes to the weights: an optimizer that holds them, averaging, a scheduler of their own",
    )


def _train(subject: Subject) -> None:
    """A few steps as the training takes them, or else as its optimizer does, or AdamW."""
    most = affordable(subject.model)
    batches = [few(subject, batch, most) for batch in islice(cycle(subject.batches), STEPS)]
    if subject.step is not None:
        for batch in batches:
            subject.step(batch)
        return
    optimizers = subject.optimizers or [torch.optim.AdamW(subject.trainable.values(), lr=LR)]
    for batch in batches:
        for _ in descend(subject, batch, optimizers, 1):
            pass


def _reached(largest: Mapping[str, float], broken: Mapping[str, float]) -> Finding:
    what, expected = f"gradients in {STEPS} steps", "a finite gradient that is not 0 for every trainable parameter"
    if broken:
        seen = f"{len(broken)} of {len(largest)} parameters had one that is not finite: {named(list(broken))}"
        return Finding("fail", what, seen, expected, "overflow in float16, a division by 0, a logarithm of 0")
    none = [name for name, size in largest.items() if size == 0]
    if len(none) == len(largest):
        return Finding("fail", what, "no parameter had one", expected, "whether the loss is part of the graph")
    seen = f"{len(largest) - len(none)} of {len(largest)} parameters had one"
    rounding = [name for name, size in largest.items() if 0 < size <= ROUNDING * max(largest.values())]
    if rounding:
        seen += f", {len(rounding)} of them no more than rounding ({named(rounding, 1)}), as a bias of keys has"
    look = "modules that are never called: freeze them, or take them out"
    return Finding("warn" if none else "pass", what, seen + (f"; none: {named(none)}" if none else ""), expected, look)


def _moved(subject: Subject, moved: set[str], largest: Mapping[str, float]) -> Finding:
    """Those with a gradient, by the subject's optimizer."""
    still = [name for name, size in largest.items() if size > 0 and name not in moved]
    what, seen = f"weights in {STEPS} steps", f"{len(largest) - len(still)} of {len(largest)} moved"
    expected = "every trainable parameter moves"
    if not still:
        return Finding("pass", what, seen, expected)
    groups = [group for optimizer in subject.optimizers for group in optimizer.param_groups]
    holding = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    is_lost = all(holding.get(id(subject.trainable[name]), 0.0) > 0 for name in still)
    seen += f"; with a gradient and at rest: {named(still)}"
    if is_lost:
        look = "the learning rate: it is too small for the precision of these weights"
        return Finding("warn", what, seen, expected, look)
    return Finding("fail", what, seen, expected, "the optimizer: which parameters it holds, and each group's LR")


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


def _which(names: set[str]) -> str:
    return f": {named(sorted(names))}" if names else ""
