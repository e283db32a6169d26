"""Diagnoses of the learning rate: outside the band of a range test, warm-up problems, ineffective schedules."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis.history import Evidence, History
from harness.diagnosis.loss_curves import may_stay_flat
from harness.diagnosis.plateau_window import PEAK_TOLERANCE, completed_fraction, drop_non_finite, find_flattest_window
from harness.diagnosis.suggestions import get_peak_lr, round_digits, suggest_warmup
from harness.diagnosis.thresholds import Thresholds

MAX_WARMUP_FRACTION = 0.3  # of the run; a later peak of the LR does not end a warm-up
AFTER_PEAK_FRACTION = 0.1  # of the run; a rise this soon after the peak is attributed to the peak
LR_TOLERANCE = 1e-6


def detect_lr_outside_band(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the peak LR is outside the band of a range test of this experiment."""
    lr, band = get_peak_lr(history), history.facts.lr_band
    if not lr or not band or band[0] <= lr <= band[1]:
        return
    kind = "learning rate too low" if lr < band[0] else "learning rate too high"
    reason = f"the peak LR of {lr:.2g} is outside the band of the range test, {band[0]:.2g} to {band[1]:.2g}"
    suggestions = (Suggestion("optimizer.lr", round_digits(math.sqrt(band[0] * band[1]), 1)),)
    evidence: Evidence = {"peak LR": lr, "band from": band[0], "band to": band[1]}
    yield Diagnosis(kind, history.last_step, 0.9, reason, evidence, suggestions)


def detect_truncated_warmup(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if a warm-up was requested and there is none, by the settings or by the LR curve."""
    requested, steps, lr = history.facts.requested_warmup, history.facts.warmup_steps, history["train/lr"]
    if not requested or requested <= 0:
        return
    if steps is None and len(lr) > 2:
        peak = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * lr.values.max())])
        steps = 0 if peak == lr.steps[0] and peak < requested / 2 else peak
    if steps == 0:
        reason = f"a warm-up of {requested:.4g} steps was requested, 0 are in effect: training starts at the peak LR"
        suggestions = (suggest_warmup(history, requested),)
        yield Diagnosis("warm-up truncated", 0, 1.0, reason, {"requested": requested, "in effect": 0}, suggestions)


def detect_short_warmup(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss rose or the gradient norm jumped right after an early peak of the LR."""
    lr, total = history["train/lr"], history.facts.total_steps or history.last_step
    if len(lr) < 4 or may_stay_flat(history):
        return
    peak = int(lr.steps[np.argmax(lr.values >= PEAK_TOLERANCE * lr.values.max())])
    has_warmup = peak > lr.steps[0] or history.facts.warmup_steps is not None
    if peak > MAX_WARMUP_FRACTION * total or not has_warmup:
        return
    until = peak + max(peak, AFTER_PEAK_FRACTION * total)
    found = _find_loss_rise(history, peak, until, thresholds) or _find_norm_jump(history, peak, until, thresholds)
    if found:
        reason, evidence = found
        steps = max(2 * (history.facts.warmup_steps or 0), round(0.1 * total), 1)
        suggestions = (suggest_warmup(history, steps),)
        yield Diagnosis("warm-up too short", peak, 0.85, reason, {"peak LR at": peak, **evidence}, suggestions)


def detect_idle_scheduler(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if a plateau schedule never cut the LR while the validation loss stood still."""
    lr, evals = history["train/lr"].values, drop_non_finite(history["val/loss"])
    has_enough = len(lr) > 2 and len(evals) > 2 and completed_fraction(history) >= thresholds.min_progress
    if not _has_plateau_schedule(history) or not has_enough:
        return
    since_peak = lr[int(np.argmax(lr >= PEAK_TOLERANCE * lr.max())) :]
    flattest = find_flattest_window(history, thresholds, 3 * thresholds.plateau_fall)  # patience reacts to less
    was_cut = since_peak.min() < lr.max() * (1 - LR_TOLERANCE)
    if was_cut or flattest is None or flattest[0] < thresholds.confidence:
        return
    window, patience = flattest[1], history.facts.patience
    reason = f"the plateau schedule left the LR at {lr.max():.2g} while {window.metric} {window.change_text}"
    evidence: Evidence = {"LR": float(lr.max()), **window.to_evidence(thresholds.confidence)}
    if patience is not None:
        earliest = _earliest_cut_step(evals.steps[evals.steps > 0], patience)
        evidence |= {"patience": patience, "earliest cut at": earliest}
        reason += f"; with a patience of {patience} its first cut can come at {history.describe_step(earliest)}"
    shorter = max(0, min(len(evals) // 3, len(evals) if patience is None else patience) - 1)
    suggestions = (Suggestion("schedule.patience", shorter),)
    yield Diagnosis("scheduler idle", history.last_step, 0.9, reason, evidence, suggestions)


def detect_misled_scheduler(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if a plateau schedule monitors the training loss, as configured or judging by its cuts."""
    monitor, suggestions = history.facts.monitor, (Suggestion("schedule", "plateau"),)
    if monitor == "train/loss":
        reason = "the plateau schedule monitors train/loss, which does not measure generalization"
        yield Diagnosis("scheduler misled", 0, 1.0, reason, {"monitor": monitor}, suggestions)
    elif monitor is None and _has_plateau_schedule(history) and (cuts := _find_cuts_while_improving(history)):
        place = history.describe_step(cuts[0])
        reason = f"the LR was cut at {place} although val/loss was at its best: it monitors something else"
        evidence: Evidence = {"first cut at a best loss": cuts[0], "cuts at a best loss": len(cuts)}
        yield Diagnosis("scheduler misled", cuts[0], 0.8, reason, evidence, suggestions)


def _find_loss_rise(
    history: History, peak: int, until: float, thresholds: Thresholds
) -> tuple[str, dict[str, float]] | None:
    """Compare the training loss with its own first rows: the validation loss has no dropout and maybe another unit."""
    losses = drop_non_finite(history["train/loss"])
    before = losses.values[losses.steps <= peak]
    after = losses.values[(losses.steps > peak) & (losses.steps <= until)]
    if not len(before) or len(after) < 2:
        return None
    lowest = float(before.min())
    # 1.4826 / sqrt(2): median absolute difference to standard deviation, for normal noise
    noise = 1.05 * float(np.median(np.abs(np.diff(losses.values))))
    rise = float(np.minimum(after[1:], after[:-1]).max()) - lowest  # in two rows one after the other
    if rise <= max(thresholds.warmup_rise * abs(lowest), thresholds.spike_z * noise):
        return None
    when = history.describe_step(peak)
    reason = f"train/loss rose by {rise:.2g} from {lowest:.4g} right after the LR reached its peak at {when}"
    return reason, {"rise": rise, "before": lowest}


def _find_norm_jump(
    history: History, peak: int, until: float, thresholds: Thresholds
) -> tuple[str, dict[str, float]] | None:
    norms = drop_non_finite(history["train/grad_norm"])
    before = norms.values[norms.steps <= peak]
    after = norms.values[(norms.steps > peak) & (norms.steps <= until)]
    later = norms.values[norms.steps > until]
    if len(before) < 3 or not len(after) or len(later) < 3:
        return None
    usual, highest = max(float(np.median(before)), float(np.median(later))), float(after.max())
    if highest <= thresholds.norm_jump * usual:
        return None
    when = history.describe_step(peak)
    reason = f"the gradient norm jumped to {highest:.2g} right after the LR peak at {when}; usual: {usual:.2g}"
    return reason, {"norm": highest, "usual norm": usual}


def _has_plateau_schedule(history: History) -> bool:
    return "plateau" in (history.facts.schedule or "").lower()


def _earliest_cut_step(steps: np.ndarray, patience: int) -> int:
    """Return the step of the first possible cut: one best evaluation, then more than `patience` others."""
    interval = float(np.median(np.diff(np.r_[0, steps])))
    return int(steps[patience + 1]) if patience + 1 < len(steps) else round(interval * (patience + 2))


def _find_cuts_while_improving(history: History) -> list[int]:
    """Return the steps of LR cuts at which the last two evaluations both were a new best."""
    lr, val = history["train/lr"], drop_non_finite(history["val/loss"])
    cuts = lr.steps[1:][lr.values[1:] < lr.values[:-1] * (1 - LR_TOLERANCE)]
    best = np.minimum.accumulate(val.values)
    improving = []
    for cut in cuts:
        n_before = int(np.searchsorted(val.steps, cut))
        if n_before >= 3 and best[n_before - 1] < best[n_before - 2] < best[n_before - 3]:
            improving.append(int(cut))
    return improving
