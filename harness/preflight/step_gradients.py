"""Judge the gradients of a few training steps against those of the loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.step_recorder import Gradients, inner_product, measure_norm

FLOAT32_ERROR = 1e-3  # relative error of a gradient that is added up in another order
ROUNDING_ERRORS = 16  # times the resolution: the same in fewer bits
SMALL_ANGLE = 0.05  # relative difference from which another weighting of micro-batches is worth a warning
LARGE_ANGLE = 0.5  # relative difference of unit vectors that no weighting of micro-batches explains
SCALE_TOLERANCE, MULTIPLE_TOLERANCE = 0.02, 0.15
TINY_RATIO = 1e-2  # gradients that are clipped to less than this share


@dataclass(frozen=True)
class StepGradients:
    """Gradients of the loss, those after backward in the step, and those at the optimizer's update."""

    expected: Gradients
    raw: Gradients
    final: Gradients


def judge_step_gradients(title: str, steps: Sequence[StepGradients], resolution: float) -> Finding:
    """Return the finding for a few steps; `resolution` is the machine epsilon of the coarsest type in the model."""
    if not steps:
        return skipped(title, "needs updates that a gradient scaler does not skip")
    tolerance = max(FLOAT32_ERROR, ROUNDING_ERRORS * resolution)
    norms = np.array([[measure_norm(each) for each in (step.expected, step.raw, step.final)] for step in steps])
    wanted = "the gradient of the loss, clipped or not"
    if not norms[:, 0].all():
        return skipped(title, "needs a gradient of the loss that is not 0")
    if not norms[:, 2].any():
        if norms[:, 1].any():
            observed = "the optimizer is updated without gradients: they are cleared between backward and the update"
            return failed(title, observed, wanted, "Call zero_grad() before backward or after optimizer.step()")
        observed = "no gradient reaches the optimizer, although the loss has one"
        return failed(title, observed, wanted, "Look for detach(), .item() or no_grad() between the loss and backward")
    if not norms[:, 2].all():
        return skipped(title, "needs gradients in every step")
    if (leftover := _measure_leftover(steps, tolerance)) is not None:
        observed = (
            f"gradients of the previous steps are still in it, {leftover:.0%} of the one before: they are never cleared"
        )
        return failed(
            title, observed, wanted, "Call optimizer.zero_grad() in each step, on the optimizer of this model"
        )
    ratios = norms[:, 1] / norms[:, 0]
    clipping = norms[:, 2] / norms[:, 1]
    angles = [_measure_angle(step.expected, step.raw) for step in steps]
    return _judge_scale(title, norms, ratios, clipping, tolerance) or _judge_direction(
        title, steps, angles, ratios, clipping, tolerance
    )


def _judge_scale(
    title: str, norms: np.ndarray, ratios: np.ndarray, clipping: np.ndarray, tolerance: float
) -> Finding | None:
    """Find gradients that are a multiple of the loss's: not divided, or clipped while they were scaled."""
    effective = norms[:, 2] / norms[:, 0]
    # Micro-batches with different numbers of tokens make a multiple vary a little.
    is_multiple = ratios.min() > 1.5 and ratios.max() - ratios.min() < MULTIPLE_TOLERANCE * ratios.max()
    is_constant = is_multiple or ratios.max() - ratios.min() < SCALE_TOLERANCE * ratios.max()
    seen = f"norm {_format(norms[:, 2])} at the update, {_format(norms[:, 0])} by the loss"
    if ratios.min() > 1 / TINY_RATIO and effective.max() < TINY_RATIO and clipping.max() < TINY_RATIO:
        observed = f"{seen}: gradients were clipped while scaled by {ratios.max():.0f}"
        hint = "Call scaler.unscale_(optimizer) before clipping; now all updates are of that tiny size"
        return failed(title, observed, "clipping after the scaler's scale is taken out", hint)
    if is_constant and effective.max() > 1 / TINY_RATIO:
        observed = f"{seen}: {effective.mean():.3g} times the gradient of the loss"
        hint = "Take out the scale before the update: scaler.step(optimizer), not optimizer.step()"
        return failed(title, observed, "the gradient of the loss", hint)
    multiple = ratios.mean()
    is_scaled = multiple > 1 / TINY_RATIO and clipping.max() < 2 / multiple  # by a gradient scaler, taken out again
    if is_constant and multiple > 1 + SCALE_TOLERANCE + tolerance and not is_scaled:
        observed = f"before clipping, x{multiple:.3g} of the gradient of the loss in every step"
        hint = f"Divide each micro-batch's loss by the number of micro-batches, if there are {round(multiple)}; "
        hint += "look for what else multiplies the loss"
        return failed(title, observed, "x1", hint)
    if is_constant and multiple < 1 - SCALE_TOLERANCE - tolerance:
        observed = f"before clipping, x{multiple:.3g} of the gradient of the loss in every step"
        hint = "Look for a loss that is divided twice, by the framework and by the loop"
        return warned(title, observed, "x1", hint)
    return None


def _judge_direction(
    title: str,
    steps: Sequence[StepGradients],
    angles: Sequence[float],
    ratios: np.ndarray,
    clipping: np.ndarray,
    tolerance: float,
) -> Finding:
    seen = f"direction {_format(1 - np.square(angles) / 2)} (cosine), size x{_format(ratios)} of the loss's"
    if max(angles) > LARGE_ANGLE:
        hint = "Look for another batch or another loss in the step, and for parts of the batch that it leaves out"
        return failed(title, f"it is not that of the loss on the batch: {seen}", "the gradient of the loss", hint)
    if max(angles) > max(SMALL_ANGLE, tolerance):
        hint = (
            "Accumulation may average the means of micro-batches: divide each one's sum by the tokens of the whole step"
        )
        return warned(title, f"it differs from that of the loss: {seen}", "the gradient of the loss", hint)
    changed = [_measure_change(step, tolerance) for step in steps]
    if max(changed) > LARGE_ANGLE:
        observed = f"it changes between backward and the update: cosine {_format(1 - np.square(changed) / 2)}"
        return warned(
            title, observed, "the same, clipped or not", "Look for hooks and noise, and for what else writes to .grad"
        )
    clipped = f", clipped to {clipping.min():.2g} of it" if clipping.min() < 1 - tolerance else ""
    return passed(title, f"that of the loss in {len(steps)} steps{clipped}")


def _measure_leftover(steps: Sequence[StepGradients], tolerance: float) -> float | None:
    """Return the share of the previous update's gradient in the next one, if that explains it to rounding, or None."""
    shares = []
    for last, step in pairwise(steps):
        basis = [step.expected, last.final]
        products = np.array([[inner_product(one, other) for other in basis] for one in basis])
        targets = np.array([inner_product(step.raw, each) for each in basis])
        size = inner_product(step.raw, step.raw)
        is_parallel = products[0, 1] ** 2 > (1 - tolerance) * products[0, 0] * products[1, 1]
        if not size or is_parallel:
            return None
        weights = np.linalg.solve(products, targets)
        residual = max(0.0, size - weights @ targets)
        share = weights[1] * math.sqrt(products[1, 1] / size)
        if residual > (10 * tolerance) ** 2 * size or share < 0.1:
            return None
        shares.append(weights[1])
    return min(shares) if shares and min(shares) > 0.5 else None


def _measure_angle(one: Gradients, other: Gradients) -> float:
    """Return the distance of the two directions, as unit vectors."""
    norms = measure_norm(one) * measure_norm(other)
    cosine = inner_product(one, other) / norms if norms else 0.0
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def _measure_change(step: StepGradients, tolerance: float) -> float:
    """Return how far the gradients turn between backward and the update, other than by clipping."""
    if not step.raw:
        return 0.0
    largest = max(gradient.abs().max().item() for gradient in step.final.values())
    changes = []
    for name, final in step.final.items():
        raw = step.raw.get(name)
        if raw is None or not raw.any():
            continue
        scale = measure_norm({name: raw}) and measure_norm({name: final}) / measure_norm({name: raw})
        is_clamped = not raw.is_complex() and bool(
            (((final - raw).abs() <= tolerance * raw.abs()) | (final.abs() >= (1 - tolerance) * largest)).all()
        )
        if scale and not is_clamped:
            changes.append((measure_norm({name: final}), _measure_angle({name: raw}, {name: final})))
    total = math.hypot(*(norm for norm, _ in changes)) if changes else 0.0
    return math.hypot(*(norm * angle for norm, angle in changes)) / total if total else 0.0


def _format(values: np.ndarray) -> str:
    return ", ".join(f"{value:.3g}" for value in np.atleast_1d(values))
