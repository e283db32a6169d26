"""Judge the gradients of a few training steps against those of the loss."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from harness.preflight.probe import format_names
from harness.preflight.report import Finding, failed, passed, skipped, warned
from harness.preflight.step_recorder import Gradients, StepRecord, inner_product, measure_norm

FLOAT32_ERROR = 1e-3  # relative error of a gradient that is added up in another order
ROUNDING_ERRORS = 16  # times the resolution: the same in fewer bits
SMALL_ANGLE = 0.05  # relative difference from which another weighting of micro-batches is worth a warning
LARGE_ANGLE = 0.5  # relative difference of unit vectors that no weighting of micro-batches explains
SCALE_TOLERANCE, MULTIPLE_TOLERANCE = 0.02, 0.15
SAME_ANGLE = 0.01  # relative difference of two unit vectors that are the same
MIN_LEFTOVER = 0.5  # share of the previous gradient that is worth a failure
WANTED = "the gradient of the loss, clipped or not"
CLEAR_ONCE = "Clear gradients before the first micro-batch and clip them after the last; otherwise the rest is left out"
TINY_RATIO = 1e-2  # gradients that are clipped to less than this share
MIN_ELEMENTS = 16  # of a parameter, to tell two gradients in it apart


@dataclass(frozen=True)
class StepSummary:
    """Numbers of a step's gradients: by the loss (expected), after backward (raw) and at the update (final)."""

    norms: tuple[float, float, float]
    angle: float
    """Between expected and raw, as the distance of unit vectors."""
    change: float
    """Distance that gradients turn between backward and the update, other than by clipping."""
    leftover: float
    """Share of the previous update's gradient that is still in raw."""
    leftover_by_name: Mapping[str, float]
    is_delayed: bool
    """True if final is the previous step's raw."""
    scaled_between: float
    """Factor of the gradients between micro-batches: less than 1 if clipped, 0 if cleared."""


class StepComparison:
    """Gradients of a few training steps, reduced to numbers one step at a time.

    `resolution` is the machine epsilon of the coarsest type in the model.
    """

    def __init__(self, resolution: float) -> None:
        self.tolerance = max(FLOAT32_ERROR, ROUNDING_ERRORS * resolution)
        self.steps: list[StepSummary] = []
        self.last: StepRecord | None = None
        self.draws_random_numbers = False

    def add_step(self, expected: Gradients, record: StepRecord) -> None:
        """Compare the gradients of a step with those of the loss and of the step before."""
        raw, final, last = record.raw, record.final, self.last
        shares = {}
        for name in (raw.keys() & expected.keys() & last.final.keys()) if last else ():
            if last and raw[name].numel() >= MIN_ELEMENTS:
                one, before, now = ({name: each[name]} for each in (expected, last.final, raw))
                shares[name] = _measure_leftover(one, before, now, self.tolerance)
        is_delayed = bool(last and last.raw and final) and _measure_angle(final, raw) > SMALL_ANGLE
        ratios = [record.scaled_between.get(name, 1.0) for name in raw]
        self.steps.append(
            StepSummary(
                norms=(measure_norm(expected), measure_norm(raw), measure_norm(final)),
                angle=_measure_angle(expected, raw),
                change=_measure_change(raw, final, self.tolerance) if final else 0.0,
                leftover=_measure_leftover(expected, last.final, raw, self.tolerance) if last else 0.0,
                leftover_by_name=shares,
                is_delayed=bool(last and is_delayed) and _measure_angle(final, last.raw if last else {}) < SAME_ANGLE,
                scaled_between=float(np.median(ratios)) if ratios else 1.0,
            )
        )
        self.last = record

    def judge(self, title: str) -> Finding:
        """Return the finding over all steps."""
        steps, tolerance = self.steps, self.tolerance
        if not steps:
            return skipped(title, "needs updates that a gradient scaler does not skip")
        norms = np.array([step.norms for step in steps])
        if not norms[:, 0].all():
            return skipped(title, "needs a gradient of the loss that is not 0")
        if not norms[:, 2].any():
            if norms[:, 1].any():
                observed = (
                    "the optimizer is updated without gradients: they are cleared between backward and the update"
                )
                return failed(title, observed, WANTED, "Call zero_grad() before backward or after optimizer.step()")
            observed = "no gradient reaches the optimizer, although the loss has one"
            hint = "Look for detach(), .item() or no_grad() between the loss and backward"
            return failed(title, observed, WANTED, hint)
        if len(steps) > 1 and all(step.is_delayed for step in steps[1:]):
            observed = "each update uses the gradient of the previous batch: optimizer.step() stands before backward"
            return failed(title, observed, WANTED, "Call backward() first, then optimizer.step(), then zero_grad()")
        if not norms[:, 2].all():
            return skipped(title, "needs gradients in every step")
        return (
            self._judge_leftover(title)
            or _judge_scale(title, norms, tolerance, self._describe_scaling())
            or self._judge_direction(title, norms)
        )

    def _judge_leftover(self, title: str) -> Finding | None:
        steps = self.steps[1:]
        share = min((step.leftover for step in steps), default=0.0)
        names = [name for name in (steps[0].leftover_by_name if steps else ())
                 if min(step.leftover_by_name.get(name, 0.0) for step in steps) > MIN_LEFTOVER]  # fmt: skip
        hint = "Call optimizer.zero_grad() in each step, on the optimizer of this model"
        if share > MIN_LEFTOVER:
            observed = f"gradients of the previous steps are still in it, {share:.0%} of the one before"
            return failed(title, f"{observed}: they are never cleared", WANTED, hint)
        if names:
            observed = f"gradients of the previous steps are still in those of {format_names(sorted(names))}"
            return failed(title, f"{observed}: they are never cleared", WANTED, f"{hint}, for all parameters")
        return None

    def _describe_scaling(self) -> str:
        """Return what is done to gradients between the micro-batches of each step, or nothing."""
        largest = max(step.scaled_between for step in self.steps)
        if largest > 1 - SCALE_TOLERANCE:
            return ""
        return f"clipped between micro-batches, to x{largest:.2g}" if largest else "cleared between micro-batches"

    def _judge_direction(self, title: str, norms: np.ndarray) -> Finding:
        ratios, clipping = norms[:, 1] / norms[:, 0], norms[:, 2] / norms[:, 1]
        angles = [step.angle for step in self.steps]
        seen = f"direction {_format(1 - np.square(angles) / 2)} (cosine), size x{_format(ratios)} of the loss's"
        between = self._describe_scaling()
        is_cleared = between.startswith("cleared")
        if between and max(angles) > (LARGE_ANGLE if is_cleared else max(SMALL_ANGLE, self.tolerance)):
            lost = ", so that only the last one counts" if is_cleared else ""
            return failed(title, f"gradients are {between}{lost}: {seen}", WANTED, CLEAR_ONCE)
        if max(angles) > max(SMALL_ANGLE, self.tolerance) and self.draws_random_numbers:
            needed = "needs a step that draws no random numbers of its own, as for augmentation"
            return skipped(title, f"{needed}; move that into `loss_fn` or the loader")
        if max(angles) > LARGE_ANGLE:
            hint = "Look for another batch or another loss in the step, and for parts of the batch that it leaves out"
            return failed(title, f"it is not that of the loss on the batch: {seen}", "the gradient of the loss", hint)
        if max(angles) > max(SMALL_ANGLE, self.tolerance):
            hint = "If the step accumulates: divide each micro-batch's sum by the tokens or rows of the whole step, "
            hint += "instead of averaging means"
            return warned(title, f"it differs from that of the loss: {seen}", "the gradient of the loss", hint)
        if (effective := norms[:, 2] / norms[:, 0]).max() < TINY_RATIO and norms[:, 2].max() < TINY_RATIO:
            observed = (
                f"that of the loss, clipped to {effective.max():.2g} of it: norm {_format(norms[:, 2])} at the update"
            )
            return warned(
                title, observed, "most of it, clipped or not", "Look at the norm or value to which it is clipped"
            )
        changed = [step.change for step in self.steps]
        if max(changed) > LARGE_ANGLE:
            observed = f"it changes between backward and the update: cosine {_format(1 - np.square(changed) / 2)}"
            hint = "Look for hooks and noise, and for what else writes to .grad"
            return warned(title, observed, "the same, clipped or not", hint)
        clipped = f", clipped to {clipping.min():.2g} of it" if clipping.min() < 1 - self.tolerance else ""
        return passed(title, f"that of the loss in {len(self.steps)} steps{clipped}")


def _judge_scale(title: str, norms: np.ndarray, tolerance: float, between: str) -> Finding | None:
    """Find gradients that are a multiple of the loss's: not divided, or clipped while they were scaled."""
    ratios, clipping, effective = norms[:, 1] / norms[:, 0], norms[:, 2] / norms[:, 1], norms[:, 2] / norms[:, 0]
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
        hint = "Look for what multiplies the loss"
        if abs(multiple - round(multiple)) < MULTIPLE_TOLERANCE:
            hint = f"Divide each micro-batch's loss by the number of micro-batches, if there are {round(multiple)}; "
            hint += "look for what else multiplies the loss"
        return failed(title, observed, "x1", hint)
    if is_constant and multiple < 1 - SCALE_TOLERANCE - tolerance:
        observed = f"before clipping, x{multiple:.3g} of the gradient of the loss in every step"
        if between:
            return warned(title, f"{observed}; gradients are {between}", "x1", CLEAR_ONCE)
        hint = "Look for a loss that is divided twice, by the framework and by the loop"
        return warned(title, observed, "x1", hint)
    return None


def _measure_leftover(expected: Gradients, last: Gradients, raw: Gradients, tolerance: float) -> float:
    """Return the share of the previous update's gradient in `raw`, if that explains it to rounding, or 0."""
    basis = [expected, last]
    products = np.array([[inner_product(one, other) for other in basis] for one in basis])
    size = inner_product(raw, raw)
    if not size or products[0, 1] ** 2 >= (1 - tolerance) * products[0, 0] * products[1, 1]:
        return 0.0  # nothing to explain, or the two cannot be told apart
    targets = np.array([inner_product(raw, each) for each in basis])
    weights = np.linalg.solve(products, targets)
    residual = max(0.0, size - weights @ targets)
    share = weights[1] * math.sqrt(products[1, 1] / size)
    return float(weights[1]) if residual <= (10 * tolerance) ** 2 * size and share >= 0.1 else 0.0


def _measure_angle(one: Gradients, other: Gradients) -> float:
    """Return the distance of the two directions, as unit vectors."""
    norms = measure_norm(one) * measure_norm(other)
    cosine = inner_product(one, other) / norms if norms else 0.0
    return math.sqrt(max(0.0, 2 - 2 * cosine))


def _measure_change(raws: Gradients, finals: Gradients, tolerance: float) -> float:
    """Return how far the gradients turn between backward and the update, other than by clipping."""
    if not raws:
        return 0.0
    largest = max(gradient.abs().max().item() for gradient in finals.values())
    changes = []
    for name, final in finals.items():
        raw = raws.get(name)
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
