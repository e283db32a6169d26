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

MIN_EVALS = 3
MIN_FEW_RISE, MIN_FEW_TRAIN_FALL = 0.1, 0.1  # of the loss, of three evaluations in a row: noise of 5% gives less
FEW_GAP_FACTOR = 3  # times overfit_gap, of too few evaluations to know their noise
MIN_TRAIN_ROWS = 3


def detect_overfitting(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the validation loss rises by more than its noise while the training loss falls.

    Without a training loss it must have fallen as clearly before: a loss that rises from its first point may as well
    have an LR that is too high.
    """
    losses = drop_non_finite(history["val/loss"])
    if len(losses) < MIN_EVALS:
        return
    at = int(np.argmin(losses.values))
    best, after = float(losses.values[at]), losses.values[at + 1 :]
    if len(after) < 2:
        return
    step, last = int(losses.steps[at]), int(losses.steps[-1])
    train_fall = measure_train_fall(history, step)
    gap, noise = float(after[-2:].min()) - best, _difference_noise(history, losses)
    few = noise is None
    scale, noise = loss_scale(losses, best), noise or 0.0
    sure = max(thresholds.overfit_gap * scale * (FEW_GAP_FACTOR if few else 1), thresholds.overfit_z * noise)
    if (
        gap <= 0
        or gap < sure
        or (len(losses) < thresholds.min_points and not _rises_steeply(losses, train_fall, history))
    ):
        return
    has_learnt = float(losses.values[: at + 1].max()) - best >= sure if train_fall is None else train_fall > 0
    if not has_learnt:
        return
    z = gap / noise if noise else math.inf
    confidence = (1 - 0.5 * math.exp(-z / 2)) * (1.0 if train_fall is not None else 0.7) * (0.9 if few else 1.0)
    training = "" if train_fall is None else f", while train/loss fell by {train_fall:.2g}"
    reason = (
        f"val/loss was best at step {step}, {best:.4g}, and rose by {gap:.2g} (noise {noise:.2g}) by step "
        f"{last}{training}"
    )
    evidence: Evidence = {"best step": step, "best": best, "gap": gap, "noise": noise, "to step": last}
    yield Diagnosis("overfitting", step, confidence, reason, evidence, suggest_regularization(history))


def measure_train_fall(history: History, since: int) -> float | None:
    """Return the fall of the training loss from around a step, or from its start, to the end; None with few rows."""
    losses = drop_non_finite(history["train/loss"])
    at = int(np.searchsorted(losses.steps, since))
    if len(losses) < MIN_TRAIN_ROWS or len(losses) - at < 2:
        return None
    if len(losses) < 2 * MIN_TRAIN_ROWS:
        return float(losses.values[at] - losses.values[-1])
    reach = max(2, len(losses) // 10)
    around = losses.values[max(0, at - reach) : at + reach]
    return float(np.median(around) - np.median(losses.values[-reach:]))


def _rises_steeply(losses: Series, train_fall: float | None, history: History) -> bool:
    """Return whether three evaluations rise one by one, by far more than usual noise, as the training loss falls."""
    train = drop_non_finite(history["train/loss"])
    if train_fall is None or train_fall < MIN_FEW_TRAIN_FALL * loss_scale(train, float(train.values[0])):
        return False
    return bool((np.diff(losses.values) > 0.5 * MIN_FEW_RISE * loss_scale(losses, float(losses.values[0]))).all())


def _difference_noise(history: History, losses: Series) -> float | None:
    """Return the standard deviation of a difference between two evaluations; None if unknown.

    With few evaluations it comes from their standard error, which is too large if both score the same set.
    """
    if len(losses) >= MIN_EVALS_FOR_NOISE:
        return math.sqrt(2) * estimate_noise(losses.values)
    errors = history["val/loss_se"].values
    return math.sqrt(2) * float(np.median(errors)) if len(errors) else None
