"""Check that gradients are correct, and that the optimizer holds exactly the trainable parameters."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.state import eval_mode
from harness.preflight.gradient_cuts import GradientCuts, record_cuts, replay_loss
from harness.preflight.probe import (
    ROUNDING,
    affordable_repeats,
    affordable_tokens,
    format_names,
    get_dense_grad,
    measure_resolution,
    subsample_batch,
)
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.step_recorder import inner_product, measure_norm
from harness.preflight.training_setup import TrainingSetup

REPEAT_TOLERANCE = 1e-3  # relative, as some devices add in no fixed order
STEP_SIZES = (1e-2, 3e-2, 3e-3, 1e-3)  # of finite differences, relative to the weights, in the order they are tried
SLOPE_TOLERANCE = 0.05  # relative to the typical slope of a random direction
LOSS_NOISE = 2  # error of a loss, in units of its resolution
DIRECTIONS = 3
COARSE_RESOLUTION = 1e-4  # of bfloat16 and float16, too coarse for finite differences
UNTRAINED_SCALE = 0.02  # typical standard deviation of initial weights, for parameters that are all 0


def check(setup: TrainingSetup) -> Iterator[Finding]:
    if not setup.trainable_parameters:
        hint = "Set requires_grad on what to train; load adapters with is_trainable=True"
        yield failed("trainable parameters", "none", "at least one", hint)
        return
    batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
    yield _check_optimizer_parameters(setup, batch)
    with eval_mode(setup.model):
        loss, gradients = _compute_gradients(setup, batch)
        repeated = _check_repeatability(loss, gradients, *_compute_gradients(setup, batch))
        yield repeated
        if repeated.level == "pass":
            yield from _check_finite_differences(setup, batch, loss, gradients)


def _compute_gradients(setup: TrainingSetup, batch: Any) -> tuple[float, dict[str, Tensor]]:
    """Return (loss, gradients by name), without parameters that have no gradient."""
    for parameter in setup.model.parameters():
        parameter.grad = None
    loss = setup.compute_loss(batch)
    if loss.requires_grad:
        loss.backward()
    parameters = setup.trainable_parameters
    gradients = {name: get_dense_grad(weight) for name, weight in parameters.items()}
    return loss.item(), {name: gradient for name, gradient in gradients.items() if gradient is not None}


def _check_repeatability(
    loss: float, gradients: Mapping[str, Tensor], second_loss: float, second_gradients: Mapping[str, Tensor]
) -> Finding:
    title, expected = "same batch twice", "the same loss and the same gradients, without dropout"
    if not math.isfinite(loss):
        return failed(
            title, f"the loss is {loss}", "a finite loss", "Look for batches without labels, overflow, a logarithm of 0"
        )
    if abs(loss - second_loss) > REPEAT_TOLERANCE * abs(loss):
        return skipped(title, f"needs a loss that draws no random numbers; loss {loss:.6g}, then {second_loss:.6g}")
    norm, common = measure_norm(gradients), gradients.keys() & second_gradients.keys()
    difference = math.hypot(*(measure_norm({name: gradients[name] - second_gradients[name]}) for name in common))
    return passed_if(
        difference <= REPEAT_TOLERANCE * norm and gradients.keys() == second_gradients.keys(),
        title,
        f"gradients of norm {norm:.3g} differ by {difference:.1e}",
        expected,
        "Look for hooks, and for what changes gradients between backward and the optimizer",
    )


def _check_finite_differences(
    setup: TrainingSetup, batch: Any, loss: float, gradients: Mapping[str, Tensor]
) -> Iterator[Finding]:
    """Compare gradients with finite differences, and look for parameters that matter although they have no gradient."""
    resolution = measure_resolution(setup, batch)
    if resolution > COARSE_RESOLUTION:
        yield skipped("gradients and finite differences", "needs float32; losses are too coarse in fewer bits")
        return
    loss_noise = LOSS_NOISE * resolution * max(abs(loss), 1e-3)
    yield _compare_slopes(setup, batch, gradients, loss_noise)
    sizes = {name: gradient.abs().max().item() for name, gradient in gradients.items()}
    min_size = ROUNDING * max(sizes.values(), default=0.0)
    held = _find_held_parameters(setup)
    without = {
        name: value for name, value in setup.trainable_parameters.items()
        if sizes.get(name, 0.0) <= min_size and (not held or id(value) in held)
    }  # fmt: skip
    if without:
        yield from _check_missing_gradients(setup, batch, without, loss_noise)


@dataclass
class _Probe:
    """Random directions, tilted half towards the gradient, and the slopes that the gradient implies along them.

    Directions are drawn each time, as all of them at once would take several times the model's memory.
    """

    setup: TrainingSetup
    gradients: Mapping[str, Tensor]
    slopes: list[float] = field(default_factory=list)
    typical: float = 0.0
    """Typical slope of a random direction."""

    def __post_init__(self) -> None:
        trainable = self.setup.trainable_parameters
        scales = {name: _typical_scale(trainable[name]) for name in self.gradients}
        norms = {name: measure_norm({name: gradient}) for name, gradient in self.gradients.items()}
        self.typical = math.hypot(*(scales[name] * norms[name] for name in self.gradients))
        self.tilts = {name: scales[name] / norms[name] if norms[name] else 0.0 for name in self.gradients}
        for index in range(affordable_repeats(self.setup.model, DIRECTIONS)):
            self.slopes.append(inner_product(self.gradients, self._make_direction(index)))

    def _make_direction(self, index: int) -> dict[str, Tensor]:
        """Tilt each parameter's part of a random direction towards its gradient, by its own scale."""
        direction = _draw_direction(self.setup.trainable_parameters, index)
        for name, gradient in self.gradients.items():
            direction[name] += gradient * self.tilts[name]
        return _clear_untrained(self.setup, direction)

    def measure(self, step_size: float, compute_loss: Callable[[], float]) -> list[float]:
        """Return the slopes along all directions, by moving the weights."""
        indices = range(len(self.slopes))
        return [_measure_slope(self.setup, self._make_direction(at), step_size, compute_loss) for at in indices]

    def compare(self, slopes: Sequence[float]) -> float:
        """Return the root mean square difference from the slopes by the gradient."""
        return _measure_distance(slopes, self.slopes)


def _compare_slopes(setup: TrainingSetup, batch: Any, gradients: Mapping[str, Tensor], loss_noise: float) -> Finding:
    """Compare slopes along random directions with those that the gradient implies.

    Step sizes are tried until the slopes agree within a share of the typical slope of a random direction. Step sizes
    at which this is below rounding are left out.
    """
    title, probe = "gradients and finite differences", _Probe(setup, gradients)
    tolerance = SLOPE_TOLERANCE * probe.typical
    step_sizes = [size for size in STEP_SIZES if loss_noise / size <= tolerance]
    if not step_sizes:
        reason = f"needs slopes above rounding; {probe.typical:.2g} is typical and the loss is off by {loss_noise:.0e}"
        return skipped(title, reason)
    measured = dict[float, list[float]]()
    for size in step_sizes:
        measured[size] = probe.measure(size, partial(_compute_plain_loss, setup, batch))
        if (error := probe.compare(measured[size])) <= tolerance:
            observed = f"{len(probe.slopes)} slopes, error {error:.1g}, typical slope {probe.typical:.2g}"
            return passed(title, observed)
    return _explain_slopes(title, probe, batch, measured, tolerance)


def _explain_slopes(
    title: str, probe: _Probe, batch: Any, measured: dict[float, list[float]], tolerance: float
) -> Finding:
    """Say why slopes and gradient differ: a stop-gradient, a gradient defined by hand, jumps of the loss or a fault."""
    setup = probe.setup
    try:
        cuts = record_cuts(setup, batch)
        fixed = {size: probe.measure(size, partial(replay_loss, setup, batch, cuts)) for size in measured}
    except Exception:  # constants in another order, or of other shapes, at other weights
        cuts, fixed = GradientCuts(), measured
    expected = f"the same slopes, within {tolerance:.2g}"
    size = min(fixed, key=lambda each: probe.compare(fixed[each]))
    if probe.compare(fixed[size]) <= tolerance and cuts.changed:
        return _judge_cuts(title, probe, batch, cuts, size, tolerance)
    observed = f"slopes {_format_slopes(probe.slopes)} by the gradient, "
    observed += f"{_format_slopes(fixed[size])} by moving the weights"
    if cuts.overwritten_lines:
        observed += (
            f"; {format_names(sorted(set(cuts.overwritten_lines)))} writes to a tensor through detach() or .data"
        )
        return failed(title, observed, expected, "Compute a new tensor instead, without detach() or .data")
    if cuts.functions:
        observed += f"; a gradient is defined by hand: {format_names(cuts.functions)}"
        hint = "Right for one that differs on purpose, as a straight-through estimator's; check its backward otherwise"
        return warned(title, observed, expected, hint)
    neighbours = pairwise(slopes for _, slopes in sorted(fixed.items()))
    if not any(_measure_distance(one, other) <= tolerance for one, other in neighbours):
        examples = " and ".join(_format_slopes(slopes[:1]) for slopes in list(fixed.values())[:2])
        return skipped(title, f"needs a smooth loss; slopes depend on the size of the step, {examples}")
    hint = "Look for hooks that change gradients, and for weights or outputs that are changed outside of autograd"
    return failed(title, observed, expected, hint)


def _judge_cuts(title: str, probe: _Probe, batch: Any, cuts: GradientCuts, size: float, tolerance: float) -> Finding:
    """Name the stop-gradients that matter, given that the gradient is right with them held fixed."""
    setup, error = probe.setup, probe.compare
    values = [line for line, constant in cuts.changed.items() if not constant.is_choice]
    matters = [
        line for line in values
        if len(values) == 1
        or error(probe.measure(size, partial(replay_loss, setup, batch, cuts, {line}))) > tolerance
    ]  # fmt: skip
    if not values:
        choices = cuts.describe_lines(list(cuts.changed))
        return passed(title, f"the same slopes with what has no derivative held fixed: {choices}")
    lines = cuts.describe_lines(matters or values)
    if cuts.frozen_layers:
        observed = f"no gradient passes the frozen layers {format_names(cuts.frozen_layers)}: {lines}"
        hint = "Do not call frozen layers under no_grad() or detach(): it cuts off the layers before them; "
        return failed(title, observed, "the gradient of the loss", hint + "requires_grad=False is enough")
    if residual := set(cuts.residual_lines) & set(matters or values):
        observed = f"no gradient passes a residual branch: {cuts.describe_lines(residual)}"
        return failed(title, observed, "the gradient of the loss", "Give the branch its input as it is")
    observed = f"the gradient leaves out a path from the weights to the loss: {lines}"
    return warned(title, observed, "a gradient that is cut only on purpose", "Remove it if it is not a stop-gradient")


def _check_missing_gradients(
    setup: TrainingSetup, batch: Any, without: Mapping[str, nn.Parameter], loss_noise: float
) -> Iterator[Finding]:
    """Report parameters without a gradient on which the loss depends.

    A LoRA adapter's first matrix is not reported: the loss does not depend on it while the second one is 0.
    """
    direction, sizes = _clear_untrained(setup, _draw_direction(without, 0)), STEP_SIZES[:2]
    slopes = [_measure_slope(setup, direction, size, partial(_compute_plain_loss, setup, batch)) for size in sizes]
    is_measurable = all(abs(slope) > 4 * loss_noise / size for slope, size in zip(slopes, sizes, strict=True))
    is_linear = abs(slopes[0] - slopes[1]) < 0.5 * abs(slopes[1])  # not the curvature of a saddle point
    if is_measurable and is_linear:
        observed = f"{len(without)} of {len(setup.trainable_parameters)}: {format_names(list(without))}; "
        observed += f"moving them by their size changes the loss by {_format_slopes(slopes[-1:])}"
        hint = "Look for no_grad() or detach(); to freeze weights, set requires_grad=False instead"
        yield failed("parameters without a gradient", observed, "none that the loss depends on", hint)


def _draw_direction(parameters: Mapping[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Return a random direction in which each parameter changes by its own scale."""
    generator, direction = torch.Generator().manual_seed(seed), {}
    for name, parameter in parameters.items():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        direction[name] = noise.to(parameter.device).mul_(_typical_scale(parameter))
    return direction


def _clear_untrained(setup: TrainingSetup, direction: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set to 0 what embeddings do not train: the row of padding, or all if gradients are divided by frequency."""
    names = {id(parameter): name for name, parameter in setup.trainable_parameters.items()}
    for module in setup.model.modules():
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and (name := names.get(id(module.weight))) in direction:
            if module.scale_grad_by_freq:
                direction[name].zero_()
            elif module.padding_idx is not None:
                direction[name][module.padding_idx] = 0
    return direction


@torch.no_grad()
def _compute_plain_loss(setup: TrainingSetup, batch: Any) -> float:
    return setup.compute_loss(batch).item()


def _measure_slope(
    setup: TrainingSetup, direction: Mapping[str, Tensor], step_size: float, compute_loss: Callable[[], float]
) -> float:
    """Return the slope of the loss along `direction`, by a central difference."""
    parameters, losses = setup.trainable_parameters, []
    originals = {name: parameters[name].detach().clone() for name in direction}
    try:
        for sign in (1, -1):
            with torch.no_grad():
                for name, part in direction.items():
                    parameters[name].copy_(originals[name] + sign * step_size * part)
            losses.append(compute_loss())
    finally:
        with torch.no_grad():
            for name, original in originals.items():
                parameters[name].copy_(original)
    return (losses[0] - losses[1]) / (2 * step_size)


def _measure_distance(one: Sequence[float], other: Sequence[float]) -> float:
    return math.dist(one, other) / math.sqrt(len(one))


def _find_held_parameters(setup: TrainingSetup) -> set[int]:
    groups = [group for optimizer in setup.optimizer_list for group in optimizer.param_groups]
    return {id(parameter) for group in groups for parameter in group["params"]}


def _check_optimizer_parameters(setup: TrainingSetup, batch: Any) -> Finding:
    title, trainable = "parameters in the optimizer", setup.trainable_parameters
    if not setup.optimizer_list:
        return skipped(title, "needs `optimizer`")
    held = _find_held_parameters(setup)
    names = {id(parameter): name for name, parameter in setup.model.named_parameters()}
    missing = [name for name, parameter in trainable.items() if id(parameter) not in held]
    frozen = [names[key] for key in held & names.keys() if names[key] not in trainable]
    foreign = len(held - names.keys())
    observed = f"{len(trainable) - len(missing)} of {len(trainable)} trainable ones"
    observed += f"; missing: {format_names(missing)}" if missing else ""
    observed += f"; {foreign} that are not in the model" if foreign else ""
    observed += f"; frozen ones: {format_names(frozen)}" if frozen else ""
    if missing and not foreign:
        with eval_mode(setup.model):
            if not any(name in _compute_gradients(setup, batch)[1] for name in missing):
                observed += ", which have no gradient either"
                hint = "Set requires_grad=False on networks that are not trained, such as a target network"
                return warned(title, observed, "exactly the trainable ones", hint)
    hint = "Make the optimizer after the model is complete, from the parameters that require a gradient"
    result = failed if missing or foreign else warned if frozen else passed
    return result(title, observed, "exactly the trainable ones", hint)


def _typical_scale(parameter: Tensor) -> float:
    """Return the median size of the values, which outliers do not change, or UNTRAINED_SCALE if all are 0."""
    sizes = parameter.detach().abs().float()
    return sizes.median().item() or sizes.square().mean().sqrt().item() or UNTRAINED_SCALE


def _format_slopes(slopes: Sequence[float]) -> str:
    return ", ".join(f"{slope:.4g}" for slope in slopes)
