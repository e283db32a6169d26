"""Diagnoses of an unstable loss: spikes and divergence."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History, Series, SpikeRecord
from harness.diagnosis.plateau_window import completed_fraction, drop_non_finite, loss_scale
from harness.diagnosis.suggestions import ROLLBACK, suggest_lr
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import rolling_baseline

# Steps of the shortest spike, since a single odd batch is no spike, and rows below the ceiling that end it. A copy of
# SPIKE_STEPS in training/spikes.py, which diagnosis may not import: change both.
MIN_SPIKE_STEPS = 3
MAX_SPIKES = 5  # reported, the first ones
MIN_TRAIN_ROWS, MIN_EVALS = 10, 2  # that establish a baseline
BLOCK_SIZE = 5  # rows per median when looking for divergence
DIVERGED_FRACTION = 0.15  # of the run that a diverged loss stayed away


class LossRise(NamedTuple):
    """A rise of the loss `name` from `before`, at `step`, to `after`; `text` describes how it lasted."""

    name: str
    step: int
    before: float
    after: float
    text: str


class LossPeak(NamedTuple):
    """A peak after `last_good_step`; `until` is the step at which the loss was back, None if it was not."""

    last_good_step: int
    step: int
    loss: float
    baseline: float
    until: int | None
    z: float | None = None


def detect_spikes(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis for each rise far above the baseline, median and median absolute deviation.

    Spikes seen during training include the examples that caused them.
    """
    found = [_describe_live_spike(history, thresholds, spike) for spike in history.spikes]
    reach = 4 * history.facts.log_every
    size = history.facts.batch_size
    for peak in find_loss_peaks(history, thresholds):
        if all(abs(peak.last_good_step - spike.last_good_step) > reach for spike in history.spikes):
            examples = (peak.last_good_step * size, peak.step * size) if size else None
            found.append(_describe_spike(history, peak, examples))
    yield from sorted(found, key=lambda diagnosis: diagnosis.evidence["last good step"])[:MAX_SPIKES]


def detect_divergence(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss is not finite any more, or rose far above its best and stayed there."""
    has_diverged = history.facts.status == "diverged"
    for name in ("train/loss", "val/loss"):
        steps, values = history[name]
        # a single row may be a skipped update, unless the run ends with it
        is_last_enough = has_diverged or completed_fraction(history) == 1
        if len(values) and not np.isfinite(values[-1 if is_last_enough else -2 :]).any():
            step = int(max(steps[np.isfinite(values)], default=0))
            evidence: Evidence = {"last good step": step}
            yield _describe_divergence(history, step, 1.0, f"{name} is not finite after step {step}", evidence)
            return
    rise = _find_train_rise(history, thresholds) or _find_val_rise(history)
    if rise:
        reason = f"{rise.name} was {rise.before:.4g} at step {rise.step} and {rise.text}, at {rise.after:.4g}"
        evidence = {"last good step": rise.step, "before": rise.before, "after": rise.after}
        yield _describe_divergence(history, rise.step, 0.95, reason, evidence)
    elif has_diverged:
        step = history.last_step
        yield _describe_divergence(history, step, 1.0, f"the run diverged at step {step}", {})


def find_loss_peaks(history: History, thresholds: Thresholds) -> list[LossPeak]:
    """Return the peaks of the training loss, or of the validation loss if the former has too few rows."""
    losses, min_values, stride, min_steps = drop_non_finite(history["train/loss"]), MIN_TRAIN_ROWS, 5, MIN_SPIKE_STEPS
    if len(losses) <= MIN_TRAIN_ROWS:
        losses, min_values, stride, min_steps = drop_non_finite(history["val/loss"]), MIN_EVALS, 1, 1
    baseline, spread = rolling_baseline(losses.values, min_values, stride=stride)
    ceiling = baseline + _spike_margin(losses, thresholds, baseline, spread)
    return _find_peaks_above(losses, baseline, ceiling, spread, min_steps)


def _find_peaks_above(
    series: Series, baseline: np.ndarray, ceiling: np.ndarray, spread: np.ndarray, min_steps: int
) -> list[LossPeak]:
    steps, values = series
    peaks: list[LossPeak] = []
    end = 0
    for at in np.flatnonzero(values > ceiling):
        if at < end:
            continue
        is_back = np.convolve(values[at:] <= ceiling[at], np.ones(min_steps), "valid") == min_steps  # and stays there
        end = int(at + np.argmax(is_back)) if is_back.any() else len(values)
        last_good_step, top = int(steps[at - 1]), at + int(np.argmax(values[at:end]))
        if steps[end - 1] - last_good_step >= min_steps:
            z = (values[top] - baseline[at]) / spread[at] if spread[at] else math.inf
            until = int(steps[end]) if end < len(values) else None
            peaks.append(
                LossPeak(last_good_step, int(steps[top]), float(values[top]), float(baseline[at]), until, float(z))
            )
    return peaks


def _spike_margin(losses: Series, thresholds: Thresholds, baseline: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return how far above the baseline a loss is a spike."""
    fractions = thresholds.spike_fraction * np.maximum(np.abs(baseline), loss_scale(losses, 0.0))
    return np.maximum(thresholds.spike_z * spread, fractions)


def _describe_live_spike(history: History, thresholds: Thresholds, spike: SpikeRecord) -> Diagnosis:
    losses = drop_non_finite(history["train/loss"])
    margin = _spike_margin(losses, thresholds, np.array(spike.baseline_loss), np.array(0.0))
    back = losses.steps[(losses.steps > spike.step) & (losses.values <= spike.baseline_loss + margin)]
    until = int(back[0]) if len(back) else None
    peak = LossPeak(
        spike.last_good_step,
        spike.step,
        spike.loss,
        spike.baseline_loss,
        until if spike.restored_step is None else spike.restored_step,
    )
    return _describe_spike(history, peak, spike.example_range, spike.restored_step)


def _describe_spike(
    history: History, peak: LossPeak, example_range: tuple[int, int] | None, restored_step: int | None = None
) -> Diagnosis:
    evidence: Evidence = {
        "last good step": peak.last_good_step,
        "highest at": peak.step,
        "loss": peak.loss,
        "baseline": peak.baseline,
        "recovered": "no" if peak.until is None else "yes",
    }
    if peak.z is not None:
        evidence["z"] = peak.z
    if example_range:
        evidence |= {"from example": example_range[0], "to example": example_range[1]}
    tokens = history.tokens_at(np.array([peak.last_good_step, peak.step]))
    if tokens is not None:
        evidence |= {"from token": float(tokens[0]), "to token": float(tokens[1])}
    evidence |= _find_last_checkpoint(history, peak.last_good_step)
    if restored_step is not None:
        outcome = f"the run was restored from step {restored_step}"
    else:
        outcome = "it has not come back" if peak.until is None else f"it was back at step {peak.until}"
    source = f", on examples {example_range[0]} to {example_range[1]}" if example_range else ""
    reason = (
        f"the loss rose from about {peak.baseline:.4g} to {peak.loss:.4g} after step {peak.last_good_step}{source}; "
        f"{outcome}"
    )
    confidence = 1.0 if peak.z is None else 1 - 0.5 * math.exp(-peak.z / 4)
    return Diagnosis("spike", peak.step, confidence, reason, evidence, (ROLLBACK, suggest_lr(history, 1 / 2)))


def _find_train_rise(history: History, thresholds: Thresholds) -> LossRise | None:
    """Look for divergence in medians of blocks, which single rows do not move."""
    losses = drop_non_finite(history["train/loss"])
    count = len(losses) // BLOCK_SIZE
    if count < 3:
        return None
    levels = np.median(losses.values[: count * BLOCK_SIZE].reshape(count, BLOCK_SIZE), axis=1)
    blocks = Series(losses.steps[BLOCK_SIZE - 1 :: BLOCK_SIZE][:count], levels)
    with_start = Series(np.r_[losses.steps[:1], blocks.steps], np.r_[losses.values[:1], levels])
    return _find_lasting_rise(blocks, thresholds) or _find_rise_above_start("train/loss", with_start)


def _find_val_rise(history: History) -> LossRise | None:
    """Compare with the evaluation before training: the training loss has dropout and maybe another unit.

    If the training loss fell, the run overfits instead.
    """
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    fell = len(train) >= BLOCK_SIZE and np.median(train.values[-BLOCK_SIZE:]) < train.values[0]
    return None if len(val) < 3 or val.steps[0] > 0 or fell else _find_rise_above_start("val/loss", val)


def _find_lasting_rise(levels: Series, thresholds: Thresholds) -> LossRise | None:
    """Return a rise if all of the last levels are far above the best one."""
    steps, values = levels
    best, n_last = int(np.argmin(values)), max(2, math.ceil(DIVERGED_FRACTION * len(values)))
    noise = np.median(np.abs(np.diff(values[: best + 1]))) if best > 2 else np.array(0.0)
    # twice the best is far, however noisy
    margin = min(_spike_margin(levels, thresholds, values[best], noise), loss_scale(levels, float(values[best])))
    last = values[best + 1 :][-n_last:]
    if len(last) < n_last or last.min() <= values[best] + margin:
        return None
    return LossRise("train/loss", int(steps[best]), float(values[best]), float(last.min()), "stayed far above it since")


def _find_rise_above_start(name: str, losses: Series) -> LossRise | None:
    """Return a rise if much of the run was above twice its start, even if it came back when the LR fell."""
    steps, values = losses
    above = values > values[0] + loss_scale(losses, float(values[0]))
    if above.mean() < DIVERGED_FRACTION:
        return None
    first, last = np.flatnonzero(above)[[0, -1]]
    text = f"more than twice that up to step {steps[last]}"
    return LossRise(name, int(steps[max(0, first - 1)]), float(values[0]), float(values[above].max()), text)


def _describe_divergence(history: History, step: int, confidence: float, reason: str, evidence: Evidence) -> Diagnosis:
    evidence |= _find_last_checkpoint(history, step)
    suggestions = (suggest_lr(history, 1 / 3), ROLLBACK)
    return Diagnosis("divergence", step, confidence, reason, evidence, suggestions)


def _find_last_checkpoint(history: History, step: int) -> Evidence:
    saved = [checkpoint for checkpoint in history.checkpoints if checkpoint <= step]
    return {"last good checkpoint": max(saved)} if saved else {}
