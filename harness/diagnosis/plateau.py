"""Diagnosis of a loss that stands still near the peak LR."""

from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History
from harness.diagnosis.loss_curves import FlatLoss, find_flat_loss, may_stay_flat
from harness.diagnosis.overfitting import measure_train_fall
from harness.diagnosis.plateau_window import (
    TrendWindow,
    completed_fraction,
    drop_non_finite,
    fell_afterwards,
    find_flattest_window,
    knows_lr,
    loss_scale,
)
from harness.diagnosis.suggestions import CHECK_LR, suggest_decay
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import bin_means, estimate_noise

N_RECENT_EVALS = 4  # including the present one; one of them has to be sure of a plateau
LONG_DOUBLINGS = 1.5
# Of a validation loss that stands still while the training loss falls, which may be about to rise.
MIN_EVALS_BESIDE_FALL, FEW_EVALS_CONFIDENCE = 6, 0.99
MAX_RISE_FRACTION = 0.02  # of the loss, that it ends above the lowest part of a plateau


def detect_plateau(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss stands still although the LR is near its peak.

    Over the last doublings of tokens it fell by less than a small fraction of itself each, it does not rise, and it did
    not fall later when the LR did. Once sure, a likely plateau suffices at the next few evaluations, so that noise does
    not make it come and go.
    """
    if completed_fraction(history) < thresholds.min_progress:
        return
    flattest = find_flattest_window(history, thresholds, thresholds.plateau_fall)
    if flattest is None or not _is_sure(history, thresholds, *flattest):
        if completed_fraction(history) >= 0.5 and (flat := find_flat_loss(history, thresholds)):
            yield _describe_flat_run(history, flat)
        return
    if completed_fraction(history) < 0.5 and find_flat_loss(history, thresholds):
        return  # it may never have learnt, which is decided halfway; a higher LR may be the wrong advice
    confidence, window = flattest
    bound = thresholds.plateau_fall * loss_scale(history[window.metric], window.trend.end)
    is_rising = window.trend.slope > bound or _ends_above_lowest(history, window)
    if is_rising or fell_afterwards(history, window, bound) or may_stay_flat(history):
        return
    low, high = (-slope for slope in window.trend.interval(thresholds.confidence)[::-1])
    part = history.describe_part(window.first, window.last)
    place = "" if knows_lr(history) else "; the LR is not in the log: if it has decayed, the run has just ended"
    reason = (
        f"{window.metric} stays at {window.trend.end:.4g}: from {part} it "
        f"{window.change_text} (interval {low:.2g} to {high:.2g}); a fall below {bound:.2g} is a plateau{place}"
    )
    train_falls = _does_train_fall(history, window, bound)
    if train_falls and window.trend.n < MIN_EVALS_BESIDE_FALL and confidence < FEW_EVALS_CONFIDENCE:
        return
    suggestions = suggest_decay(history)
    yield Diagnosis("plateau", window.last, confidence, reason, window.to_evidence(thresholds.confidence), suggestions)


def _is_sure(history: History, thresholds: Thresholds, confidence: float, window: TrendWindow) -> bool:
    """Return whether this window, or that of a recent evaluation if this one is likely, surely is flat.

    Over two doublings or more, a slope of almost 0 may be less sure: a small fall would have added up.
    """
    bound = thresholds.plateau_fall * loss_scale(history[window.metric], window.trend.end)
    is_tiny = window.doublings >= LONG_DOUBLINGS and abs(window.trend.slope) <= bound / 2
    if is_tiny and window.trend.confidence_above(-2 * bound) >= (1 + thresholds.confidence) / 2:
        return True
    recent = [confidence]
    if 0.5 <= confidence < thresholds.confidence:
        for until in history["val/loss"].steps[-N_RECENT_EVALS:-1].tolist():
            earlier = find_flattest_window(history, thresholds, thresholds.plateau_fall, until)
            recent += [earlier[0]] if earlier else []
    return max(recent) >= thresholds.confidence


def _ends_above_lowest(history: History, window: TrendWindow) -> bool:
    """Return whether the loss fell and came back within the window, which a line does not show."""
    steps, values = drop_non_finite(history[window.metric])
    inside = values[(steps >= window.first) & (steps <= window.last)]
    bins = bin_means(inside)
    noise = estimate_noise(bins) if len(bins) > 2 else 0.0
    margin = max(MAX_RISE_FRACTION * loss_scale(history[window.metric], window.trend.end), 4 * noise)
    return float(np.mean(bins[-2:]) - bins.min()) > margin


def _does_train_fall(history: History, window: TrendWindow, bound: float) -> bool:
    """Return whether the training loss still falls, so that the LR is not what holds the validation loss up."""
    fall = measure_train_fall(history, window.first)
    return window.metric == "val/loss" and fall is not None and fall > 2 * bound


def _describe_flat_run(history: History, flat: FlatLoss) -> Diagnosis:
    """Return the plateau of a run that began with trained weights and has not moved since."""
    losses = flat.losses.values
    reason = f"{flat.text}; the LR may be too low or too high"
    evidence: Evidence = {"start": float(losses[0]), "best": float(losses.min()), "points": len(losses)}
    return Diagnosis("plateau", history.last_step, 0.95, reason, evidence, (CHECK_LR,))
