"""Diagnosis of overfitting."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.loss_curves import MIN_EVALS_FOR_NOISE
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.suggestions import suggest_regularization
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import estimate_noise

MIN_OVERFIT_EVALS = 3
# Of the loss, of three evaluations: the rise from each to the next, and the fall of the training loss.
MIN_FEW_RISE, MIN_FEW_TRAIN_FALL = 0.05, 0.1
MIN_SMOOTH_RISES, SMOOTH_GAP_FACTOR = 3, 0.5  # evaluations that rise one by one; times overfit_gap, by how little
SMOOTH_Z = 2.0  # such a rise, in units of the noise
MIN_TRAIN_FALL = 0.02  # of the training loss, beside such a rise
MIN_FLAT_EVALS, MEMORISED_TRAIN_FRACTION = 4, 0.05
GENERALIZING_FRACTION = 0.7  # of its value at the second evaluation; a training loss below it should show in others
FEW_GAP_FACTOR = 3  # times overfit_gap, of too few evaluations to know their noise
MIN_FALL_ROWS = 3


def detect_overfitting(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the validation loss rises by more than its noise while the training loss falls.

    Without a training loss it must have fallen as clearly before: a loss that rises from its first point may as well
    have an LR that is too high. A smooth rise may be small. A validation loss that does not fall any more is enough
    if the training loss is almost 0 beside it.
    """
    losses = drop_non_finite(history["val/loss"])
    if len(losses) < MIN_OVERFIT_EVALS:
        return
    at = int(np.argmin(losses.values))
    best, after = float(losses.values[at]), losses.values[at + 1 :]
    step, last = int(losses.steps[at]), int(losses.steps[-1])
    train_fall, noise = measure_train_fall(history, step), _difference_noise(history, losses)
    is_smooth = len(after) >= MIN_SMOOTH_RISES and bool((np.diff(losses.values[at:]) > 0).all())
    gap = float(after[-1 if is_smooth else -2 :].min()) - best if len(after) > 1 else 0.0
    sure = _find_sure_gap(history, losses, train_fall, noise, thresholds)
    has_fallen = float(losses.values[: at + 1].max()) - best >= sure if train_fall is None else train_fall > 0
    rise = float(losses.values[-1]) - best
    evidence: Evidence = {"best step": step, "best": best, "rise": rise, "to step": last}
    evidence |= {} if noise is None else {"noise": noise}
    if gap > 0 and gap >= sure and has_fallen:
        z = gap / noise if noise else math.inf
        confidence = (1 - 0.5 * math.exp(-z / 2)) * (1.0 if train_fall is not None else 0.7)
        training = "" if train_fall is None else f", while train/loss fell by {train_fall:.2g}"
        variation = "unknown" if noise is None else f"{noise:.2g}"
        reason = (
            f"val/loss was best at {history.describe_step(step)}, {best:.4g}, and rose by {rise:.2g} "
            f"(noise {variation}) to {losses.values[-1]:.4g} by {history.describe_step(last)}{training}"
        )
    elif train := _find_memorised_loss(history, losses):
        confidence = 0.8
        reason = (
            f"train/loss is {train:.2g} and val/loss {losses.values[-1]:.4g}, which has not fallen since "
            f"{history.describe_step(step)}, at {best:.4g}: the model memorises the training data"
        )
        evidence["train"] = train
    else:
        return
    yield Diagnosis("overfitting", step, confidence, reason, evidence, suggest_regularization(history))


def _find_sure_gap(
    history: History, losses: Series, train_fall: float | None, noise: float | None, thresholds: Thresholds
) -> float:
    """Return by how much the last two evaluations must be above the best; infinite if that would show nothing."""
    at = int(np.argmin(losses.values))
    scale, rises = loss_scale(losses, float(losses.values[at])), np.diff(losses.values[at:])
    train = drop_non_finite(history["train/loss"])
    if len(losses) < thresholds.min_points:
        falls = train_fall is not None and train_fall > MIN_FEW_TRAIN_FALL * loss_scale(train, float(train.values[0]))
        return 0.0 if falls and len(rises) > 1 and (rises > MIN_FEW_RISE * scale).all() else math.inf
    gap = thresholds.overfit_gap * scale
    is_smooth = len(rises) >= MIN_SMOOTH_RISES and (rises > 0).all()
    if (
        is_smooth
        and train_fall is not None
        and train_fall > MIN_TRAIN_FALL * loss_scale(train, float(train.values[-1]))
    ):
        return max(SMOOTH_GAP_FACTOR * gap, SMOOTH_Z * (noise or 0.0))
    return max(gap * (FEW_GAP_FACTOR if noise is None else 1), thresholds.overfit_z * (noise or 0.0))


def _find_memorised_loss(history: History, losses: Series) -> float | None:
    """Return the training loss if it is almost 0 beside its start and a validation loss that falls no more.

    It may also be a part of what it was at the first evaluations, which are as good as all later ones.
    """
    train, val = drop_non_finite(history["train/loss"]).values, losses.values
    if len(val) < MIN_FLAT_EVALS or len(train) < MIN_FLAT_EVALS:
        return None
    last, half = float(np.median(train[-3:])), len(val) // 2
    if val[half:].min() < val[:half].min():
        return None
    is_memorised = 0 <= last < MEMORISED_TRAIN_FRACTION * min(float(train[0]), float(val[-3:].min()))
    fall = measure_train_fall(history, int(losses.steps[1]))
    has_halved = fall is not None and 0 < last < GENERALIZING_FRACTION * (last + fall)
    never_better = len(val) >= 2 * MIN_FLAT_EVALS and np.median(val[half:]) >= np.median(val[:2])
    return last if is_memorised or (has_halved and never_better) else None


def measure_train_fall(history: History, since: int) -> float | None:
    """Return the fall of the training loss from around a step, or from its start, to the end; None with few rows."""
    losses = drop_non_finite(history["train/loss"])
    at = int(np.searchsorted(losses.steps, since))
    if len(losses) < MIN_FALL_ROWS or len(losses) - at < 2:
        return None
    if len(losses) < 2 * MIN_FALL_ROWS:
        return float(losses.values[at] - losses.values[-1])
    reach = max(2, len(losses) // 10)
    around = losses.values[max(0, at - reach) : at + reach]
    return float(np.median(around) - np.median(losses.values[-reach:]))


def _difference_noise(history: History, losses: Series) -> float | None:
    """Return the standard deviation of a difference between two evaluations; None if unknown.

    With few evaluations it comes from their standard error, which is too large if both score the same set.
    """
    if len(losses) >= MIN_EVALS_FOR_NOISE:
        return math.sqrt(2) * estimate_noise(losses.values)
    errors = history["val/loss_se"].values
    return math.sqrt(2) * float(np.median(errors)) if len(errors) else None
