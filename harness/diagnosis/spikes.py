"""Diagnosis of loss spikes."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.divergence import JUMP_FRACTION, JUMP_SPREADS, find_last_checkpoint
from harness.diagnosis.history import Evidence, History, Series, SpikeRecord
from harness.diagnosis.loss_curves import varies_around_zero
from harness.diagnosis.lost_rows import LostRows, find_lost_rows
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.suggestions import suggest_lr, suggest_rollback
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import rolling_baseline

MIN_SPIKE_STEPS = 5  # of the shortest spike: a few odd batches are no spike
MIN_SPIKE_ROWS = 2  # of the shortest spike, and below the ceiling that end it
MIN_NOISY_SPIKE_ROWS, NOISY_FRACTION = 3, 0.1  # if rows vary by a tenth of the loss and more
MIN_ODD_ROWS = 3  # above the ceiling by themselves, that show how often the loss of a batch is
MAX_CHANCE = 0.05  # spikes expected in all rows so far, of rows that are independent
HEAVY_SPREAD, HEAVY_Z = math.log(2), 3.0  # of the logarithm: rows that differ by a factor of two, as of tiny batches
LOST_ROWS_CONFIDENCE = 0.6
MAX_SPIKES = 5  # reported, the first ones
MIN_TRAIN_ROWS, MIN_EVALS = 10, 4  # that establish a baseline
MAX_FEW_ROWS, MIN_FEW_ROWS = 20, 2  # in a log of so few rows a spike is a jump, and few of them a baseline
RECENT_ROWS = 5  # before a spike, above which it rises too: a slow rise is no spike
MEMORISED_FRACTION, MEMORISED_PEAK = 0.05, 0.25  # of the first loss, of a baseline and a peak that are no news


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

    Spikes seen during training include the examples that caused them. Rows that are not finite, though later ones
    are, are named once.
    """
    found = [_describe_live_spike(history, thresholds, spike) for spike in history.spikes]
    reach = 4 * history.facts.log_every
    size = history.facts.batch_size
    for peak in find_loss_peaks(history, thresholds):
        if all(abs(peak.last_good_step - spike.last_good_step) > reach for spike in history.spikes):
            examples = (peak.last_good_step * size, peak.step * size) if size else None
            found.append(_describe_spike(history, peak, examples))
    if (lost := find_lost_rows(history)) and not lost.is_often:
        found.append(_describe_lost_rows(history, lost))
    yield from sorted(found, key=lambda diagnosis: diagnosis.evidence["last good step"])[:MAX_SPIKES]


def find_loss_peaks(history: History, thresholds: Thresholds) -> list[LossPeak]:
    """Return the peaks of the training loss, or of the validation loss if the former has too few rows.

    A validation loss that does not come back rises, which is no spike. Peaks of a memorised loss are left out.
    """
    losses = drop_non_finite(history["train/loss"])
    is_excerpt = bool(history.facts.source) or history.facts.status is not None
    if varies_around_zero(losses.values):
        peaks = []
    elif len(losses) > MAX_FEW_ROWS:
        baseline, spread = rolling_baseline(losses.values, MIN_TRAIN_ROWS)
        ceiling = baseline + _spike_margin(losses, thresholds, baseline, spread)
        ceiling = np.maximum(ceiling, _find_heavy_ceiling(losses.values, baseline))
        peaks = _find_peaks_above(losses, baseline, ceiling, spread)
    elif len(losses) > (MIN_FEW_ROWS if is_excerpt else MIN_TRAIN_ROWS):
        peaks = _find_peaks_in_few_rows(losses)
    else:
        losses = drop_non_finite(history["val/loss"])
        baseline, spread = rolling_baseline(losses.values, MIN_EVALS, stride=1)
        ceiling = baseline + _spike_margin(losses, thresholds, baseline, spread)
        found = _find_peaks_above(losses, baseline, ceiling, spread, min_rows=1, min_steps=1)
        peaks = [peak for peak in found if peak.until is not None]
    return [peak for peak in peaks if not _is_memorised(history, losses, peak)]


def _find_peaks_above(
    series: Series,
    baseline: np.ndarray,
    ceiling: np.ndarray,
    spread: np.ndarray,
    min_rows: int | None = None,
    min_steps: int = MIN_SPIKE_STEPS,
    floor: np.ndarray | None = None,
) -> list[LossPeak]:
    """Return the parts above the ceiling that are long enough and begin with a jump.

    They end below the `floor`, which is the ceiling if not given.
    """
    steps, values = series
    peaks: list[LossPeak] = []
    end = n_odd = 0  # rows above the ceiling that are no spike
    for at in np.flatnonzero(values > ceiling):
        if at < end:
            continue
        is_noisy = spread[at] > NOISY_FRACTION * abs(baseline[at])
        rows = min_rows or (MIN_NOISY_SPIKE_ROWS if is_noisy else MIN_SPIKE_ROWS)
        is_back = (
            np.convolve(values[at:] <= (ceiling if floor is None else floor)[at], np.ones(rows), "valid") == rows
        )  # and stays there
        end = int(at + np.argmax(is_back)) if is_back.any() else len(values)
        last_good_step, top = int(steps[at - 1]), at + int(np.argmax(values[at:end]))
        above = values[at:end] > ceiling[at]
        is_long = steps[end - 1] - last_good_step >= min_steps and above.sum() >= rows
        margin = ceiling[at] - baseline[at]
        is_jump = values[top] > np.median(values[max(0, at - RECENT_ROWS) : at]) + margin
        if is_long and is_jump and not _is_usual(int(at), n_odd, above):
            z = (values[top] - baseline[at]) / spread[at] if spread[at] else math.inf
            until = int(steps[end]) if end < len(values) else None
            peaks.append(
                LossPeak(last_good_step, int(steps[top]), float(values[top]), float(baseline[at]), until, float(z))
            )
        else:
            n_odd += int(above.sum())
    return peaks


def _is_usual(n_before: int, n_odd: int, above: np.ndarray) -> bool:
    """Return whether so many rows in succession are above the ceiling by chance, as often as earlier rows were."""
    if n_odd < MIN_ODD_ROWS:
        return False
    below = np.flatnonzero(~np.r_[False, above, False])
    longest = int(np.diff(below).max()) - 1
    return bool(n_before * (n_odd / n_before) ** longest > MAX_CHANCE)


def _find_peaks_in_few_rows(losses: Series) -> list[LossPeak]:
    """Return jumps far above all rows before them: of a row if it is above twice the loss, else of two rows or more."""
    baseline, ceiling, high, spread = (np.full(len(losses), np.nan) for _ in range(4))
    for at in range(MIN_FEW_ROWS, len(losses)):
        before = losses.values[max(0, at - MIN_TRAIN_ROWS) : at]
        baseline[at], spread[at] = np.median(before), np.ptp(before)
        scale = loss_scale(losses, float(baseline[at]))
        ceiling[at] = before.max() + max(JUMP_FRACTION * scale, JUMP_SPREADS * spread[at])
        high[at] = before.max() + max(scale, JUMP_SPREADS * spread[at])
    found = _find_peaks_above(losses, baseline, high, spread, min_rows=1, min_steps=1, floor=ceiling)
    if not found:
        found = _find_peaks_above(losses, baseline, ceiling, spread, MIN_SPIKE_ROWS)
    return found


def _is_memorised(history: History, losses: Series, peak: LossPeak) -> bool:
    """Return whether a peak is small beside what was learnt, or below the best validation loss after that."""
    start = abs(float(losses.values[0]))
    if abs(peak.baseline) <= MEMORISED_FRACTION * start and abs(peak.loss) <= MEMORISED_PEAK * start:
        return True
    val = drop_non_finite(history["val/loss"])
    best = int(np.argmin(val.values)) if len(val) else 0
    return len(val) - best > 1 and peak.last_good_step >= val.steps[best] and 0 <= peak.loss < val.values[best]


def _spike_margin(losses: Series, thresholds: Thresholds, baseline: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return how far above the baseline a loss is a spike."""
    fractions = thresholds.spike_fraction * np.maximum(np.abs(baseline), loss_scale(losses, 0.0))
    return np.maximum(thresholds.spike_z * spread, fractions)


def _describe_lost_rows(history: History, lost: LostRows) -> Diagnosis:
    """Return the diagnosis without a setting to change: half precision skips single updates, and that is all."""
    first, back = history.describe_step(lost.step), history.describe_step(lost.back_step)
    if lost.n_lost == 1:
        reason = f"the loss was not finite at {first}; it was back at {back}, at {lost.back:.4g}"
    else:
        reason = (
            f"the loss was not finite in {lost.n_lost} of {lost.n_rows} rows, first at {first}; it was back each time"
        )
    reason += ". The loss scaling of half precision skips such updates; without it, look at the examples of that step"
    evidence: Evidence = {
        "last good step": lost.last_good_step, "baseline": lost.before, "rows not finite": lost.n_lost,
        "recovered": "yes",
    }  # fmt: skip
    return Diagnosis("spike", lost.step, LOST_ROWS_CONFIDENCE, reason, evidence)


def _find_heavy_ceiling(values: np.ndarray, baseline: np.ndarray) -> np.ndarray:
    """Return where a spike begins among rows that usually differ by a factor, which is far above their median."""
    if values.min() <= 0:
        return np.full(len(values), -math.inf)
    _, spread = rolling_baseline(np.log(values), MIN_TRAIN_ROWS)
    return np.where(spread > HEAVY_SPREAD, baseline * np.exp(HEAVY_Z * spread), -math.inf)


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
    evidence |= find_last_checkpoint(history, peak.last_good_step)
    if restored_step is not None:
        outcome = f"the run was restored from {history.describe_step(restored_step)}"
    else:
        outcome = (
            "it has not come back" if peak.until is None else f"it was back at {history.describe_step(peak.until)}"
        )
    source = f", on examples {example_range[0]} to {example_range[1]}" if example_range else ""
    reason = (
        f"the loss rose from about {peak.baseline:.4g} to {peak.loss:.4g} after "
        f"{history.describe_step(peak.last_good_step)}{source}; {outcome}"
    )
    confidence = 1.0 if peak.z is None else 1 - 0.5 * math.exp(-peak.z / 4)
    suggestions = (*suggest_rollback(history, peak.last_good_step), suggest_lr(history, 1 / 2, peak.last_good_step))
    return Diagnosis("spike", peak.step, confidence, reason, evidence, suggestions)
