"""Diagnoses of a loss that rises, or whose evaluations are all worse than the first one."""

from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.climbs import MAX_ROWS, find_climb, find_steady_rise, goes_on_rising
from harness.diagnosis.history import Evidence, History
from harness.diagnosis.loss_curves import excuses_rise, has_surely_fallen
from harness.diagnosis.overfitting import measure_train_fall
from harness.diagnosis.plateau_window import (
    MIN_TRAIN_ROWS,
    completed_fraction,
    drop_non_finite,
    fell_afterwards,
    fit_trend_window,
    loss_scale,
)
from harness.diagnosis.suggestions import suggest_lr
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import count_turns

RISE_STRICTNESS = 10  # times fewer false alarms, since the loss of a healthy run seldom rises
RISE_CONFIDENCE = 0.9  # of a rise in few rows
MIN_WORSE_EVALS = 6
WORSE_FRACTION, USUAL_WORSE_FRACTION = 0.03, 0.1  # of the first loss: how much worse each one is, and the median one


def detect_rising_loss(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the training loss surely rises, over the last doubling near the peak LR or in few rows.

    Without a training loss the validation loss is used. A rise far above the best loss is a divergence instead.
    """
    found = _find_rising_trend(history, thresholds) or _find_rise_in_few_rows(history, thresholds)
    if found:
        yield found


def _find_rising_trend(history: History, thresholds: Thresholds) -> Diagnosis | None:
    has_train = len(history["train/loss"]) >= MIN_TRAIN_ROWS
    window = fit_trend_window(history, thresholds, metrics=["train/loss" if has_train else "val/loss"])
    if window is None or completed_fraction(history) < thresholds.min_progress:
        return None
    bound = thresholds.overfit_gap * loss_scale(history[window.metric], window.trend.end)
    rise = window.trend.slope * window.doublings
    steps, values = drop_non_finite(history[window.metric])
    inside = values[(steps >= window.first) & (steps <= window.last)]
    if len(inside) <= MAX_ROWS and not goes_on_rising(inside):
        return None
    if rise < bound or fell_afterwards(history, window, 0.0) or excuses_rise(history, rise):
        return None
    confidence = window.trend.confidence_above(bound)
    if confidence < 1 - (1 - thresholds.confidence) / RISE_STRICTNESS:
        return None
    low, high = window.trend.interval(thresholds.confidence)
    part = history.describe_part(window.first, window.last)
    reason = (
        f"{window.metric} rises: from {part} it {window.change_text} (interval {low:.2g} to "
        f"{high:.2g}), to {window.trend.end:.4g}"
    )
    evidence = window.to_evidence(thresholds.confidence)
    return Diagnosis("rising loss", window.last, confidence, reason, evidence, (suggest_lr(history, 1 / 3),))


def _find_rise_in_few_rows(history: History, thresholds: Thresholds) -> Diagnosis | None:
    """Find a rise row by row, or all along, in a log that is too short for a slope; it may be the middle of a run."""
    if climb := find_climb(history):
        first, last, before, after = climb.step, climb.last_step, climb.before, climb.last
        part, rest = history.describe_part(first, last), f"in each of the last {climb.n_rises} rows"
    elif steady := find_steady_rise(history, thresholds):
        losses, change, (low, high) = steady
        first, last, after = int(losses.steps[0]), int(losses.steps[-1]), float(losses.values[-1])
        before, part = float(losses.values[0]), history.describe_part(first, last)
        rest = f"by {change:.2g} (interval {low:.2g} to {high:.2g}) in all {len(losses)} rows"
    else:
        return None
    reason = f"train/loss rises: from {part} it rose {rest}, from {before:.4g} to {after:.4g}"
    evidence: Evidence = {"from step": first, "to step": last, "before": before, "after": after}
    return Diagnosis("rising loss", last, RISE_CONFIDENCE, reason, evidence, (suggest_lr(history, 1 / 3),))


def detect_worse_evaluations(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if all evaluations are worse than the first one, up and down, and training does not fall.

    One that goes on rising is a rising loss, or overfitting.
    """
    steps, values = drop_non_finite(history["val/loss"])
    if len(values) < MIN_WORSE_EVALS:
        return
    first, later = float(values[0]), values[1:]
    scale = loss_scale(history["val/loss"], first)
    is_worse = later.min() > first + WORSE_FRACTION * scale and np.median(later) > first + USUAL_WORSE_FRACTION * scale
    if not is_worse or count_turns(later) < 2 or _has_train_fallen(history, int(steps[0]), thresholds):
        return
    reason = (
        f"all {len(later)} evaluations after the first one are worse than it, {later.min():.4g} to {later.max():.4g} "
        f"after {first:.4g} at {history.describe_step(steps[0])}"
    )
    evidence: Evidence = {"first": first, "best later": float(later.min()), "worst": float(later.max())}
    suggestions = (suggest_lr(history, 1 / 3),)
    yield Diagnosis("learning rate too high", int(steps[0]), 0.8, reason, evidence, suggestions)


def _has_train_fallen(history: History, since: int, thresholds: Thresholds) -> bool:
    """Return whether the training loss clearly falls, so that the run overfits instead."""
    train, fall = drop_non_finite(history["train/loss"]), measure_train_fall(history, since)
    if fall is None or fall < 0:
        return False
    if len(train) > MIN_WORSE_EVALS:
        return has_surely_fallen(train, thresholds)
    return fall > USUAL_WORSE_FRACTION * loss_scale(train, float(train.values[0]))
