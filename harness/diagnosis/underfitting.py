"""Diagnosis of a run that ended while more steps clearly pay."""

from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History
from harness.diagnosis.loss_curves import get_initial_loss, has_no_scale
from harness.diagnosis.plateau_window import (
    TrendWindow,
    completed_fraction,
    drop_non_finite,
    fit_trend_window,
    knows_lr,
    loss_scale,
)
from harness.diagnosis.suggestions import suggest_double_length
from harness.diagnosis.thresholds import Thresholds

PEAK_FRACTION = 0.9  # of the peak LR, at the end of a run whose LR has not decayed
MEMORISED_LOSS_FRACTION = 0.05  # of the first loss
UNUSUAL_FACTOR = 20  # times underfit_fall, if the LR is unknown: healthy runs of epochs end with falls of 20% to 60%
MIN_WHOLE_ROWS, MIN_WHOLE_EVALS = 20, 10  # of a log whose end is known to be that of the run
LATE_FACTOR = 2.0  # a fall twice as steep at the end as before is the schedule's


def detect_underfitting(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss still fell by a good fraction per doubling of tokens at the end of the run.

    The fall at the end of a decaying LR is the schedule's, so if the LR is unknown, it has to be far steeper.
    """
    window = fit_trend_window(history, thresholds)
    has_ended = completed_fraction(history) == 1 and history.facts.status in (None, "completed")
    is_at_peak = knows_lr(history) and _is_at_peak_lr(history)
    if window is None or not has_ended or not _is_whole_run(history) or _is_past_best(history):
        return
    if knows_lr(history) and not is_at_peak:
        return
    losses = drop_non_finite(history[window.metric])
    if has_no_scale(losses.values) or _is_memorised(history, window):
        return
    start = get_initial_loss(losses)
    if start is not None and window.trend.end > start:
        return  # it recovers from a rise above its start
    fraction = thresholds.underfit_fall * (1 if is_at_peak else UNUSUAL_FACTOR)
    bound = fraction * loss_scale(history[window.metric], window.trend.end)
    confidence = 1 - window.trend.confidence_above(-bound)
    is_steep = bound > 0 and confidence >= thresholds.confidence and _val_still_falls(history, fraction)
    if not is_steep or not _falls_throughout(history, window, bound, is_at_peak):
        return
    part = history.describe_part(window.first, window.last)
    rank = ", rather than a higher rank" if history.facts.lora_rank else ""
    lr = "at its peak LR" if is_at_peak else "which no decay of the LR explains"
    reason = (
        f"{window.metric} still fell by {window.fall_per_doubling:.2g} per doubling of {window.unit} at "
        f"{window.trend.end:.4g}, from {part}, {lr}: train for longer{rank}"
    )
    evidence = window.to_evidence(thresholds.confidence)
    yield Diagnosis("underfitting", window.last, confidence, reason, evidence, (suggest_double_length(history),))


def _is_at_peak_lr(history: History) -> bool:
    lr = history["train/lr"].values
    return float(lr[-1]) >= PEAK_FRACTION * float(lr.max())


def _falls_throughout(history: History, window: TrendWindow, bound: float, is_at_peak: bool) -> bool:
    """Return whether the second half of the window falls too, and not only that one unless the LR is at its peak."""
    steps, values = drop_non_finite(history[window.metric])
    inside = (steps >= window.first) & (steps <= window.last)
    x, y = np.log2(np.maximum(steps[inside], 1)), values[inside]
    half = len(y) // 2
    early, late = (np.polyfit(x[part], y[part], 1)[0] for part in (slice(0, half + 1), slice(half, None)))
    return late <= -bound / 2 and (is_at_peak or early <= late / LATE_FACTOR)


def _is_memorised(history: History, window: TrendWindow) -> bool:
    """Return whether a training loss is almost 0 beside its start, where falling on says nothing of other data."""
    losses = drop_non_finite(history["train/loss"]).values
    is_low = window.metric == "train/loss" and abs(window.trend.end) < MEMORISED_LOSS_FRACTION * abs(float(losses[0]))
    return is_low and not len(history["val/loss"])


def _is_whole_run(history: History) -> bool:
    """Return whether the log is more than an excerpt of a few rows."""
    facts = history.facts
    is_long = len(history["train/loss"]) >= MIN_WHOLE_ROWS or len(history["val/loss"]) >= MIN_WHOLE_EVALS
    return is_long or facts.status == "completed" or bool(facts.total_steps)


def _val_still_falls(history: History, fraction: float) -> bool:
    """Return whether the validation loss fell at half that pace at least, over the second half of the run."""
    steps, values = drop_non_finite(history["val/loss"])
    if len(values) < 2:
        return True
    at = min(max(0, int(np.searchsorted(steps, steps[-1] / 2, "right")) - 1), len(values) - 2)
    return bool(values[at] - values[-1] >= fraction / 2 * loss_scale(history["val/loss"], float(values[-1])))


def _is_past_best(history: History) -> bool:
    """Return whether the validation loss has risen since its best evaluation, however little."""
    values = drop_non_finite(history["val/loss"]).values
    return len(values) > 2 and int(np.argmin(values)) < len(values) - 2
