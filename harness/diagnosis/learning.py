"""Diagnoses of learning: never learnt, plateau, underfitting, overfitting."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.plateau_window import (
    MIN_TRAIN_ROWS,
    TrendWindow,
    completed_fraction,
    drop_non_finite,
    find_flattest_window,
    fit_trend_window,
    has_enough_points,
    loss_scale,
)
from harness.diagnosis.suggestions import (
    suggest_decay_and_lr,
    suggest_double_length,
    suggest_lr,
    suggest_regularization,
)
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import bin_means, estimate_noise, fit_trend

NEGLIGIBLE_CHANGE = 0.001  # of the initial loss, noise or not
MIN_EVALS_FOR_NOISE = 6  # with fewer, the bend of the curve would pass for noise
RISE_STRICTNESS = 10  # times fewer false alarms, since the loss of a healthy run seldom rises
MAX_START_Z = 3.5  # standard errors that early points may lie above the rest by chance: the highest of several means
N_RECENT_EVALS = 4  # including the present one; one of them has to be sure of a plateau


def detect_never_learnt(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss is no better than a guess that ignores the input, or than at the start."""
    if completed_fraction(history) < 0.5 or not has_enough_points(history, thresholds):
        return
    judged, values = select_loss(history, thresholds)
    if not values.values.any():
        yield _describe_zero_loss(history, judged, len(values))
        return
    val, train = (drop_non_finite(history[metric]) for metric in ("val/loss", "train/loss"))
    name, losses = ("val/loss", val) if len(val) > 1 else ("train/loss", train)
    best = float(losses.values[1:].min())
    unigram = history.facts.unigram_loss
    guess = unigram or history.facts.uniform_loss
    window = fit_trend_window(history, thresholds)
    halfway_fall = float(losses.values[(len(losses) - 1) // 2] - losses.values[-1])
    fall = window.fall_per_doubling if window else halfway_fall
    bound = (guess or 0.0) * (1 - thresholds.never_learnt_margin)
    # the training loss counts too: if it is low, the model learnt something, even if only the training set
    lowest = min(best - max(0.0, fall), _final_train_loss(history))
    if guess and lowest >= bound and not _is_falling(window, fall, best, thresholds):
        baseline = "the unigram or mean baseline" if unigram else "a uniform guess"
        since = " after the start" * bool(losses.values[0] < best)
        reason = f"the best {name}{since}, {best:.4g}, is no better than {baseline} at {guess:.4g}: "
        reason += "the model ignores its input"
        evidence: Evidence = {"best": best, "baseline": guess, "fall per doubling": fall}
    elif not (unigram and best < bound) and (flat := find_flat_loss(history, thresholds)):
        reason = f"{flat[0]} went from {flat[1].values[0]:.4g} to {flat[1].values[-1]:.4g}, which is within its noise"
        evidence = {"start": float(flat[1].values[0]), "best": float(flat[1].values[1:].min())}
    else:
        return
    # no LR is suggested: too low and too high look the same here
    reason += "; run `plateau preflight` to look for a bug, `plateau lr-range` to find an LR"
    yield Diagnosis("never learnt", history.last_step, 0.95, reason, evidence)


def detect_plateau(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss stands still although the LR is near its peak.

    Over the last doublings of tokens it fell by less than a small fraction of itself each, and it did not fall later
    when the LR did. Once sure, a likely plateau suffices at the next few evaluations, so that noise does not make it
    come and go.
    """
    if completed_fraction(history) < thresholds.min_progress:
        return
    flattest = find_flattest_window(history, thresholds, thresholds.plateau_fall)
    if flattest is None or flattest[0] < 0.5:
        if completed_fraction(history) >= 0.5 and (flat := find_flat_loss(history, thresholds)):
            yield _describe_flat_run(history, *flat)
        return
    confidence, window = flattest
    recent = [confidence]
    if 0.5 <= confidence < thresholds.confidence:
        for until in history["val/loss"].steps[-N_RECENT_EVALS:-1].tolist():
            earlier = find_flattest_window(history, thresholds, thresholds.plateau_fall, until)
            recent += [earlier[0]] if earlier else []
    bound = thresholds.plateau_fall * loss_scale(history[window.metric], window.trend.end)
    if max(recent) < thresholds.confidence:
        if completed_fraction(history) >= 0.5 and (flat := find_flat_loss(history, thresholds)):
            yield _describe_flat_run(history, *flat)
        return
    if _is_rising(window, bound, thresholds) or _fell_afterwards(history, window, bound):
        return
    low, high = (-slope for slope in window.trend.interval(thresholds.confidence)[::-1])
    reason = (
        f"{window.metric} stays at {window.trend.end:.4g}: from step {window.first} to {window.last} it "
        f"{window.change_text} (interval {low:.2g} to {high:.2g}); a fall below {bound:.2g} is a plateau"
    )
    suggestions = suggest_decay_and_lr(history, is_rising=_is_rising(window, 0.0, thresholds))
    yield Diagnosis("plateau", window.last, confidence, reason, window.to_evidence(thresholds.confidence), suggestions)


def detect_rising_loss(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the training loss surely rises over the last doubling of tokens near the peak LR.

    Without a training loss the validation loss is used. A rise far above the best loss is a divergence instead.
    """
    has_train = len(history["train/loss"]) >= MIN_TRAIN_ROWS
    window = fit_trend_window(history, thresholds, metrics=["train/loss" if has_train else "val/loss"])
    if window is None or completed_fraction(history) < thresholds.min_progress:
        return
    bound = thresholds.overfit_gap * loss_scale(history[window.metric], window.trend.end)
    confidence = window.trend.confidence_above(bound)
    if confidence < 1 - (1 - thresholds.confidence) / RISE_STRICTNESS:
        return
    low, high = window.trend.interval(thresholds.confidence)
    reason = (
        f"{window.metric} rises: from step {window.first} to {window.last} it {window.change_text} (interval {low:.2g} "
        f"to {high:.2g}), to {window.trend.end:.4g}"
    )
    evidence = window.to_evidence(thresholds.confidence)
    yield Diagnosis("rising loss", window.last, confidence, reason, evidence, (suggest_lr(history, 1 / 3),))


def detect_underfitting(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss still fell by a good fraction per doubling of tokens at the end of the run."""
    window = fit_trend_window(history, thresholds)
    has_ended = completed_fraction(history) == 1 and history.facts.status in (None, "completed")
    if window is None or not has_ended:
        return
    start = _initial_loss(drop_non_finite(history[window.metric]))
    if start is not None and window.trend.end > start:
        return  # it recovers from a rise above its start
    bound = thresholds.underfit_fall * loss_scale(history[window.metric], window.trend.end)
    confidence = 1 - window.trend.confidence_above(-bound)
    if bound > 0 and confidence >= thresholds.confidence:
        rank = ", rather than a higher rank" if history.facts.lora_rank else ""
        reason = (
            f"{window.metric} still fell by {window.fall_per_doubling:.2g} per doubling of {window.unit} at "
            f"{window.trend.end:.4g}, from step {window.first} to {window.last}: train for more steps{rank}"
        )
        evidence = window.to_evidence(thresholds.confidence)
        yield Diagnosis("underfitting", window.last, confidence, reason, evidence, (suggest_double_length(history),))


def detect_overfitting(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the validation loss rises by more than its noise while the training loss falls.

    Without a training loss it must have fallen as clearly before: a loss that rises from its first point may as well
    have an LR that is too high.
    """
    losses = drop_non_finite(history["val/loss"])
    if len(losses) < 4:
        return
    at = int(np.argmin(losses.values))
    best, after = float(losses.values[at]), losses.values[at + 1 :]
    if len(after) < 2:
        return
    gap, noise = float(after[-2:].min()) - best, _difference_noise(history, losses)
    sure = max(thresholds.overfit_gap * loss_scale(losses, best), thresholds.overfit_z * noise)
    if gap <= 0 or gap < sure:
        return
    step, last = int(losses.steps[at]), int(losses.steps[-1])
    train_fall = _train_loss_fall(history, step)
    has_learnt = float(losses.values[: at + 1].max()) - best >= sure if train_fall is None else train_fall > 0
    if not has_learnt:
        return
    z = gap / noise if noise else math.inf
    confidence = (1 - 0.5 * math.exp(-z / 2)) * (1.0 if train_fall is not None else 0.7)
    training = "" if train_fall is None else f", while train/loss fell by {train_fall:.2g}"
    reason = (
        f"val/loss was best at step {step}, {best:.4g}, and rose by {gap:.2g} (noise {noise:.2g}) by step "
        f"{last}{training}"
    )
    evidence: Evidence = {"best step": step, "best": best, "gap": gap, "noise": noise, "to step": last}
    yield Diagnosis("overfitting", step, confidence, reason, evidence, suggest_regularization(history))


def _is_falling(window: TrendWindow | None, fall: float, level: float, thresholds: Thresholds) -> bool:
    """Return whether the loss is on its way down, even if still far from the baseline, as early in pretraining."""
    bound = thresholds.plateau_fall * abs(level)
    return fall > bound if window is None else 1 - window.trend.confidence_above(-bound) >= thresholds.confidence


def _is_rising(window: TrendWindow, bound: float, thresholds: Thresholds) -> bool:
    """Return whether the loss surely rises, and by more than `bound` per doubling."""
    return window.trend.slope > bound and window.trend.confidence_above(0.0) >= thresholds.confidence


def find_flat_loss(history: History, thresholds: Thresholds) -> tuple[str, Series] | None:
    """Return the name and values of the loss if it has not moved since the start of the run; else None."""
    name, losses = select_loss(history, thresholds)
    train = drop_non_finite(history["train/loss"])
    if not has_enough_points(history, thresholds) or not _initial_loss(losses):
        return None
    if name == "val/loss" and len(train) >= MIN_TRAIN_ROWS and has_surely_fallen(train, thresholds):
        return None  # it learns, if only the training set
    return (name, losses) if _stood_still(losses, thresholds) or _has_no_trend(losses, thresholds) else None


def select_loss(history: History, thresholds: Thresholds) -> tuple[str, Series]:
    """Return the validation loss if it has enough evaluations or training rows are too few, else the training loss."""
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    use_val = len(val) >= thresholds.min_points or (len(val) > 1 and len(train) < MIN_TRAIN_ROWS)
    return ("val/loss", val) if use_val else ("train/loss", train)


def _has_no_trend(losses: Series, thresholds: Thresholds) -> bool:
    """Return whether a line through all points is surely flat, and no early part of the curve lies above the rest.

    Flat means a whole change of at most `never_learnt_fall`, with an interval of at most twice that.
    """
    values, start = losses.values, abs(float(losses.values[0]))
    small = thresholds.never_learnt_fall * start
    if len(values) < max(3, thresholds.min_points):
        return False
    change, (low, high) = fit_whole_change(values, thresholds)
    if not (abs(change) <= small and -2 * small <= low <= 0 <= high <= 2 * small):
        return False
    if _starts_above(values, small):
        return False
    bins = bin_means(values)
    bin_noise = estimate_noise(values) * math.sqrt(len(bins) / len(values))
    return float(bins[0] - bins.min()) <= 2 * small + MAX_START_Z * bin_noise  # it did not fall and come back


def _starts_above(values: np.ndarray, small: float) -> bool:
    """Return whether an early part lies above the rest: a fall at the very start hardly tilts a line."""
    noise, count = estimate_noise(values), 1
    while count <= len(values) // 4:
        if values[:count].mean() - np.median(values[count:]) > max(small, MAX_START_Z * noise / math.sqrt(count)):
            return True
        count *= 2
    return False


def has_surely_fallen(losses: Series, thresholds: Thresholds) -> bool:
    """Return whether the loss has fallen since its first value, by more than is negligible or its noise."""
    negligible = NEGLIGIBLE_CHANGE * abs(float(losses.values[0]))
    if len(losses) < max(3, thresholds.min_points):
        return False
    _, (_, high) = fit_whole_change(losses.values, thresholds)
    return high < -negligible or _starts_above(losses.values, negligible)


def fit_whole_change(values: np.ndarray, thresholds: Thresholds) -> tuple[float, tuple[float, float]]:
    """Return the change of a line through the values from the first to the last one, and its interval."""
    trend, steps = fit_trend(np.arange(len(values), dtype=float), values), len(values) - 1
    low, high = trend.interval(thresholds.confidence)
    return trend.slope * steps, (low * steps, high * steps)


def _describe_zero_loss(history: History, name: str, count: int) -> Diagnosis:
    """Return the diagnosis of a loss that measures nothing: a bug, which no LR mends."""
    reason = (
        f"{name} is exactly 0 at all {count} points: no target is scored, or something else than the loss is recorded; "
        "run `plateau preflight` to look for a bug"
    )
    return Diagnosis("never learnt", history.last_step, 1.0, reason, {"start": 0.0, "best": 0.0, "points": count})


def _describe_flat_run(history: History, name: str, losses: Series) -> Diagnosis:
    """Return the plateau of a run that began with trained weights and has not moved since."""
    start, last = float(losses.values[0]), float(losses.values[-1])
    reason = (
        f"{name} has not moved since the start: from {start:.4g} to {last:.4g} in {len(losses)} points, within its "
        "noise; the LR may be too low or too high, `plateau lr-range` shows which"
    )
    evidence: Evidence = {"start": start, "best": float(losses.values.min()), "points": len(losses)}
    return Diagnosis("plateau", history.last_step, 0.95, reason, evidence)


def _stood_still(losses: Series, thresholds: Thresholds) -> bool:
    """Return whether the change is small and within the noise, or negligible."""
    start, last = float(losses.values[0]), float(np.median(losses.values[1:][-3:]))
    small = thresholds.never_learnt_fall * abs(start)
    if losses.values.min() < start - small:
        return False
    noise = math.sqrt(2) * estimate_noise(losses.values) if len(losses) >= MIN_EVALS_FOR_NOISE else 0.0
    return abs(start - last) <= min(small, max(NEGLIGIBLE_CHANGE * abs(start), thresholds.overfit_z * noise))


def _final_train_loss(history: History) -> float:
    values = drop_non_finite(history["train/loss"]).values
    return float(np.median(values[-max(3, len(values) // 10) :])) if len(values) else math.inf


def _initial_loss(losses: Series) -> float | None:
    """Return the first loss if the curve goes back to the start of the run."""
    return float(losses.values[0]) if losses.steps[0] <= losses.steps[-1] / 10 else None


def _fell_afterwards(history: History, window: TrendWindow, bound: float) -> bool:
    """Return whether the loss fell after the window, as it does if only the high LR kept it up."""
    losses = drop_non_finite(history[window.metric])
    later = losses.values[losses.steps > window.last]
    return len(later) > 0 and window.trend.end - float(np.median(later[-max(1, len(later) // 4) :])) > bound


def _difference_noise(history: History, losses: Series) -> float:
    """Return the standard deviation of a difference between two evaluations.

    With few evaluations it comes from their standard error, which is too large if both score the same set.
    """
    if len(losses) >= MIN_EVALS_FOR_NOISE:
        return math.sqrt(2) * estimate_noise(losses.values)
    errors = history["val/loss_se"].values
    return math.sqrt(2) * float(np.median(errors)) if len(errors) else 0.0


def _train_loss_fall(history: History, since: int) -> float | None:
    """Return the fall of the training loss from around a step, or from its start, to the end; None with few rows."""
    losses = drop_non_finite(history["train/loss"])
    at = int(np.searchsorted(losses.steps, since))
    reach = max(2, len(losses) // 10)
    if len(losses) < 6 or len(losses) - at < 2:
        return None
    around = losses.values[max(0, at - reach) : at + reach]
    return float(np.median(around) - np.median(losses.values[-reach:]))
