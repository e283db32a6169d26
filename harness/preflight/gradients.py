"""Check that gradients are correct, and that the optimizer holds exactly the trainable parameters."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.state import eval_mode
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
    yield _check_optimizer_parameters(setup)
    batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
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
    norm, common = _global_norm(gradients.values()), gradients.keys() & second_gradients.keys()
    difference = _global_norm(gradients[name] - second_gradients[name] for name in common)
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
    without = {name: value for name, value in setup.trainable_parameters.items() if sizes.get(name, 0.0) <= min_size}
    if without:
        yield from _check_missing_gradients(setup, batch, without, loss_noise)


def _compare_slopes(setup: TrainingSetup, batch: Any, gradients: Mapping[str, Tensor], loss_noise: float) -> Finding:
    """Compare slopes along random directions, tilted half towards the gradient, with those that the gradient implies.

    Step sizes are tried until the slopes agree within a share of the typical slope of a random direction. Step sizes
    at which this is below rounding are left out.
    """
    trainable, generator = setup.trainable_parameters, torch.Generator().manual_seed(0)
    n_directions = affordable_repeats(setup.model, DIRECTIONS)
    directions = [_draw_direction(trainable, generator) for _ in range(n_directions)]
    norms = {name: _global_norm([gradient]) for name, gradient in gradients.items()}
    scales = {name: _typical_scale(trainable[name]) for name in gradients}
    typical = math.hypot(*(scales[name] * norms[name] for name in gradients))
    for direction in directions:  # tilt each parameter's part towards its gradient, by its own scale
        for name, gradient in gradients.items():
            direction[name] += gradient * (scales[name] / norms[name] if norms[name] else 0.0)
    slopes = [sum(_inner_product(gradients[name], direction[name]) for name in gradients) for direction in directions]
    title, tolerance = "gradients and finite differences", SLOPE_TOLERANCE * typical
    step_sizes = [size for size in STEP_SIZES if loss_noise / size <= tolerance]
    if not step_sizes:
        reason = f"needs slopes above rounding; {typical:.2g} is typical and the loss is off by {loss_noise:.0e}"
        return skipped(title, reason)
    best_error, best_slopes = math.inf, list[float]()
    for step_size in step_sizes:
        measured = [_measure_slope(setup, batch, direction, step_size) for direction in directions]
        error = math.dist(measured, slopes) / math.sqrt(n_directions)
        if not best_slopes or error < best_error:
            best_error, best_slopes = error, measured
        if error <= tolerance:
            return passed(title, f"{n_directions} slopes, error {error:.1g}, typical slope {typical:.2g}")
    observed = f"slopes {_format_slopes(slopes)} by the gradient, {_format_slopes(best_slopes)} by moving the weights"
    hint = "Look for no_grad() or detach() between the weights and the loss, and hooks that change gradients"
    return failed(title, observed, f"the same slopes, within {tolerance:.2g}", hint)


def _check_missing_gradients(
    setup: TrainingSetup, batch: Any, without: Mapping[str, nn.Parameter], loss_noise: float
) -> Iterator[Finding]:
    """Report parameters without a gradient on which the loss depends.

    A LoRA adapter's first matrix is not reported: the loss does not depend on it while the second one is 0.
    """
    direction, sizes = _draw_direction(without, torch.Generator().manual_seed(0)), STEP_SIZES[:2]
    slopes = [_measure_slope(setup, batch, direction, size) for size in sizes]
    is_measurable = all(abs(slope) > 4 * loss_noise / size for slope, size in zip(slopes, sizes, strict=True))
    is_linear = abs(slopes[0] - slopes[1]) < 0.5 * abs(slopes[1])  # not the curvature of a saddle point
    if is_measurable and is_linear:
        observed = f"{len(without)} of {len(setup.trainable_parameters)}: {format_names(list(without))}; "
        observed += f"moving them by their size changes the loss by {_format_slopes(slopes[-1:])}"
        hint = "Look for no_grad() or detach(); to freeze weights, set requires_grad=False instead"
        yield failed("parameters without a gradient", observed, "none that the loss depends on", hint)


def _draw_direction(parameters: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Return a random direction in which each parameter changes by its own scale."""
    direction = {}
    for name, parameter in parameters.items():
        noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
        direction[name] = noise.to(parameter.device) * _typical_scale(parameter)
    return direction


@torch.no_grad()
def _measure_slope(setup: TrainingSetup, batch: Any, direction: Mapping[str, Tensor], step_size: float) -> float:
    """Return the slope of the loss along `direction`, by a central difference."""
    parameters, losses = setup.trainable_parameters, []
    originals = {name: parameters[name].detach().clone() for name in direction}
    for sign in (1, -1):
        for name, part in direction.items():
            parameters[name].copy_(originals[name] + sign * step_size * part)
        losses.append(setup.compute_loss(batch).item())
    for name, original in originals.items():
        parameters[name].copy_(original)
    return (losses[0] - losses[1]) / (2 * step_size)


def _check_optimizer_parameters(setup: TrainingSetup) -> Finding:
    title, trainable = "parameters in the optimizer", setup.trainable_parameters
    if not setup.optimizer_list:
        return skipped(title, "needs `optimizer`")
    groups = [group for optimizer in setup.optimizer_list for group in optimizer.param_groups]
    held = {id(parameter) for group in groups for parameter in group["params"]}
    names = {id(parameter): name for name, parameter in setup.model.named_parameters()}
    missing = [name for name, parameter in trainable.items() if id(parameter) not in held]
    frozen = [names[key] for key in held & names.keys() if names[key] not in trainable]
    foreign = len(held - names.keys())
    observed = f"{len(trainable) - len(missing)} of {len(trainable)} trainable ones"
    observed += f"; missing: {format_names(missing)}" if missing else ""
    observed += f"; {foreign} that are not in the model" if foreign else ""
    observed += f"; frozen ones: {format_names(frozen)}" if frozen else ""
    hint = "Make the optimizer after the model is complete, from the parameters that require a gradient"
    result = failed if missing or foreign else warned if frozen else passed
    return result(title, observed, "exactly the trainable ones", hint)


def _typical_scale(parameter: Tensor) -> float:
    """Return the median size of the values, which outliers do not change, or UNTRAINED_SCALE if all are 0."""
    sizes = parameter.detach().abs().float()
    return sizes.median().item() or sizes.square().mean().sqrt().item() or UNTRAINED_SCALE


def _global_norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(sum(tensor.abs().double().square().sum().item() for tensor in tensors))


def _inner_product(one: Tensor, other: Tensor) -> float:
    """Return the real inner product, with complex numbers as pairs."""
    return (one.conj() * other).real.double().sum().item() if one.is_complex() else (one * other).double().sum().item()


def _format_slopes(slopes: Sequence[float]) -> str:
    return ", ".join(f"{slope:.4g}" for slope in slopes)
