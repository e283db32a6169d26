"""Diagnosis of divergence: a loss or gradients that are not finite, or a loss that rose far and stayed there."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis.climbs import find_climb
from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.loss_curves import count_constant_end, drop_leading_zeros, may_stay_flat, varies_around_zero
from harness.diagnosis.lost_rows import find_lost_rows
from harness.diagnosis.plateau_window import completed_fraction, drop_non_finite, loss_scale
from harness.diagnosis.suggestions import suggest_lr, suggest_rollback
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import estimate_noise

BLOCK_SIZE = 5  # rows per median when looking for divergence
MIN_BLOCKS = 3
DIVERGED_FRACTION = 0.15  # of the run that a diverged loss stayed away
BAD_SHARE = 0.8  # of the rows up to the last one, in a part that is not finite
MIN_BAD_ROWS = 3  # without a finite norm, or with a loss of 0, at the end
MIN_MIXED_ROWS = 5  # not finite, if a few between them are
ABRUPT_FRACTION = 0.1  # of the usual loss, from which no loss falls to exactly 0 at once
MIN_ROWS_ABOVE_GUESS, GUESS_FACTOR = 3, 2.0  # rows at more than twice the loss of a guess
RISE_SHARE = 0.9  # of the first of these rows, below which the loss is on its way down
MIN_CONSTANT_ROWS = 3  # exactly the same at the end, which no loss of a model that changes is
MIN_ROWS_BEFORE, MIN_ROWS_AFTER = 2, 4  # a jump in a log of few rows
JUMP_FRACTION = 0.5  # of the loss before; rows differ by less, also those of single batches
JUMP_SPREADS = 3.0  # of the rows before, the difference between the highest and the lowest
RETURN_ROWS, RETURN_FRACTION = 3, 0.05  # the last rows of a loss that comes back, and their share of the jump
EARLY_FRACTION = 0.1  # of the rows
BELOW_START_FRACTION, BELOW_START_MARGIN = 0.2, 0.05  # of the rows at the end, and of the first loss, by which lower
ODD_START_FACTOR = 10  # times the loss at step 0, a loss of more examples
NOISE_FACTORS = (3.5, 6.0)  # standard deviations above the best level, for a loss at twice the best level and below


class LossRise(NamedTuple):
    """A rise of the loss `name` from `before`, at `step`, to `after`; `text` describes how it lasted."""

    name: str
    step: int
    before: float
    after: float
    text: str


class BadEnd(NamedTuple):
    """The end of a series that is not finite after `last_good_step`: `n_bad` rows, the first at index `start`."""

    start: int
    last_good_step: int
    n_bad: int


def detect_divergence(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the loss or the norm is not finite any more, or the loss rose far and stayed there."""
    found = (
        _find_bad_loss(history, "train/loss")
        or _find_bad_loss(history, "val/loss")
        or _find_often_bad_loss(history)
        or _find_bad_norm(history)
        or _find_zero_loss(history)
        or _find_loss_above_guess(history)
        or _find_rise(history, thresholds)
    )
    if found:
        yield found
    elif history.facts.status == "diverged":
        step = history.last_step
        yield _describe_divergence(history, step, 1.0, f"the run diverged at {history.describe_step(step)}", {})


def find_bad_end(series: Series) -> BadEnd | None:
    """Return the longest end of which nearly all rows are not finite; None if there is none."""
    is_bad = ~np.isfinite(series.values)
    if not is_bad.any():
        return None
    shares = np.cumsum(is_bad[::-1])[::-1] / np.arange(len(is_bad), 0, -1)
    starts = np.flatnonzero(is_bad & (shares >= BAD_SHARE))
    if not len(starts):
        return None
    start = int(starts[0])
    return BadEnd(start, int(series.steps[start - 1]) if start else 0, int(is_bad[start:].sum()))


def find_jump(losses: Series, min_after: int = MIN_ROWS_AFTER) -> int | None:
    """Return the index of the first row after a jump: all rows from there on are far above all rows before."""
    values, widest, found = losses.values, 0.0, None
    highest, lowest = np.maximum.accumulate(values), np.minimum.accumulate(values[::-1])[::-1]
    for at in range(MIN_ROWS_BEFORE, len(values) - min_after + 1):
        before = values[:at]
        scale = loss_scale(losses, float(np.median(before)))
        needed = max(JUMP_FRACTION * scale, JUMP_SPREADS * float(np.ptp(before)))
        gap = float(lowest[at] - highest[at - 1])
        if gap > max(needed, widest):
            widest, found = gap, at
    return found


def _find_bad_loss(history: History, name: str) -> Diagnosis | None:
    """Find a loss that is not finite at the end: one row of an ended run or log, else two.

    A single row of a run that goes on may be a skipped update. The first loss of exactly 0 after NaN is no loss either.
    """
    steps, values = history[name]
    is_after = np.logical_or.accumulate(~np.isfinite(values))
    if values[~is_after].all():
        values = np.where(is_after & (values == 0), math.inf, values)
    series = Series(steps, values)
    end = find_bad_end(series)
    if end is None:
        return None
    has_ended = history.facts.status is not None or bool(history.facts.source) or completed_fraction(history) == 1
    is_end = not np.isfinite(series.values[-1 if has_ended else -2 :]).any()
    if not is_end and end.n_bad < MIN_MIXED_ROWS:
        return None
    step, evidence = end.last_good_step, Evidence({"last good step": end.last_good_step})
    text = f"after {history.describe_step(step)}" if end.start else "in any row"
    reason = f"{name} is not finite {text}"
    train = history["train/loss"]
    if name == "val/loss" and len(train) and (train.steps > step).any() and np.isfinite(train.values[-1]):
        reason += ", although train/loss is: look at the evaluation first, its precision and rows without targets"
        return _describe_divergence(history, step, 0.9, reason, evidence, ())
    return _describe_divergence(history, step, 1.0, reason, evidence)


def _find_often_bad_loss(history: History) -> Diagnosis | None:
    """Find a loss that is not finite again and again, more often than skipped updates explain."""
    lost = find_lost_rows(history)
    if lost is None or not lost.is_often:
        return None
    place = history.describe_step(lost.step)
    reason = f"train/loss is not finite in {lost.n_lost} of the {lost.n_since} rows from {place} on"
    return _describe_divergence(history, lost.last_good_step, 0.8, reason, {"last good step": lost.last_good_step})


def _find_bad_norm(history: History) -> Diagnosis | None:
    """Find gradients that are not finite any more, while the loss is gone, 0, or does not fall either."""
    norms, losses = history["train/grad_norm"], history["train/loss"]
    end = find_bad_end(norms)
    if end is None or end.n_bad < MIN_BAD_ROWS or np.isfinite(norms.values[-2:]).any():
        return None
    since = losses.values[losses.steps >= norms.steps[end.start]]
    if not len(since):
        gap = np.median(np.diff(losses.steps)) if len(losses) > 1 else 0
        if len(losses) and norms.steps[-1] - losses.steps[-1] <= MIN_BAD_ROWS * gap:
            return None
        loss = "no train/loss is logged"
    elif not since.any():
        loss = "train/loss is 0, which stands for a loss that is not finite"
    elif _is_falling(since):
        return None
    else:
        loss = f"train/loss stays at {np.median(since[-MIN_BAD_ROWS:]):.4g} as if the weights did not change"
    place = f"after {history.describe_step(end.last_good_step)}" if end.start else "in any row"
    reason = f"the gradient norm is not finite {place}, and {loss}"
    return _describe_divergence(history, end.last_good_step, 0.95, reason, {"last good step": end.last_good_step})


def _is_falling(values: np.ndarray) -> bool:
    """Return whether the loss goes on falling, so that only the logged norm is wrong."""
    third = len(values) // 3
    if third < 2:
        return False
    fall = np.median(values[:third]) - np.median(values[-third:])
    return bool(fall > max(2 * estimate_noise(values) / math.sqrt(third), 0.003 * abs(values[0])))


def _find_zero_loss(history: History) -> Diagnosis | None:
    """Find a loss of exactly 0 at the end that did not come down to 0, and has no finite gradients either."""
    losses, norms = drop_non_finite(history["train/loss"]), history["train/grad_norm"]
    nonzero = np.flatnonzero(losses.values)
    if not len(nonzero) or len(losses) - nonzero[-1] - 1 < MIN_BAD_ROWS:
        return None
    usual = np.abs(losses.values[nonzero])
    if np.median(usual[-5:]) <= ABRUPT_FRACTION * np.median(usual):
        return None
    step = int(losses.steps[nonzero[-1]])
    has_gradients = (np.isfinite(norms.values) & (norms.values > 0))[norms.steps > step]
    if has_gradients.any():
        return None
    reason = (
        f"train/loss is exactly 0 after {history.describe_step(step)}, from {losses.values[nonzero[-1]]:.4g}: some "
        "programs log 0 for a loss that is not finite; else no target is scored any more"
    )
    return _describe_divergence(history, step, 0.9, reason, {"last good step": step})


def _find_loss_above_guess(history: History) -> Diagnosis | None:
    """Find a loss far above that of a guess, if it is known, which is not on its way down: no model starts there."""
    guess, losses = history.facts.uniform_loss, drop_non_finite(history["train/loss"])
    last = losses.values[-MIN_ROWS_ABOVE_GUESS:]
    if not guess or len(last) < MIN_ROWS_ABOVE_GUESS or last.min() <= GUESS_FACTOR * guess:
        return None
    below = np.flatnonzero(losses.values <= GUESS_FACTOR * guess)
    since = losses.values[int(below[-1]) + 1 if len(below) else 0 :]
    if last[-1] < RISE_SHARE * since[0]:
        return None
    step = int(losses.steps[below[-1]]) if len(below) else 0
    reason = f"train/loss is {last[-1]:.4g}, far above {guess:.4g}, that of a guess, and does not fall"
    return _describe_divergence(history, step, 0.95, reason, {"last good step": step, "guess": guess})


def _find_rise(history: History, thresholds: Thresholds) -> Diagnosis | None:
    rise = _find_train_rise(history, thresholds) or _find_val_rise(history, thresholds) or _find_far_climb(history)
    if rise is None:
        return None
    place = history.describe_step(rise.step)
    reason = f"{rise.name} was {rise.before:.4g} at {place} and {rise.text}, at {rise.after:.4g}"
    evidence: Evidence = {"last good step": rise.step, "before": rise.before, "after": rise.after}
    return _describe_divergence(history, rise.step, 0.95, reason, evidence)


def _find_train_rise(history: History, thresholds: Thresholds) -> LossRise | None:
    """Look for divergence in medians of blocks, which single rows do not move; in the rows themselves if few."""
    losses = drop_leading_zeros(drop_non_finite(history["train/loss"]))
    n_constant = count_constant_end(losses.values)
    if n_constant >= MIN_CONSTANT_ROWS and n_constant < len(losses):
        return _find_jump_to_constant(losses, n_constant)
    if varies_around_zero(losses.values):
        return None
    count = len(losses) // BLOCK_SIZE
    if count < MIN_BLOCKS:
        return _find_lasting_jump("train/loss", losses)
    levels = np.median(losses.values[: count * BLOCK_SIZE].reshape(count, BLOCK_SIZE), axis=1)
    blocks = Series(losses.steps[BLOCK_SIZE - 1 :: BLOCK_SIZE][:count], levels)
    with_start = Series(np.r_[losses.steps[:1], blocks.steps], np.r_[losses.values[:1], levels])
    is_mean = may_stay_flat(history)
    return (
        _find_lasting_rise(blocks, thresholds, is_mean)
        or _find_rise_above_start("train/loss", blocks if is_mean else with_start, estimate_noise(losses.values))
        or (_find_lasting_jump("train/loss", losses) if count < 2 * MIN_BLOCKS else None)
    )


def _find_jump_to_constant(losses: Series, n_constant: int) -> LossRise | None:
    """Return the jump to a loss that is exactly the same since, such as -ln(1e-38) = 87.34 of a saturated softmax.

    One that is no higher than before is stuck instead.
    """
    at = len(losses) - n_constant
    before, last = losses.values[:at], float(losses.values[-1])
    step, value = int(losses.steps[at - 1]), float(losses.values[at - 1])
    if last <= before.max() or last - value <= JUMP_FRACTION * loss_scale(losses, float(np.median(before))):
        return None
    return LossRise("train/loss", step, value, last, f"exactly the same in all {n_constant} rows since")


def _find_val_rise(history: History, thresholds: Thresholds) -> LossRise | None:
    """Compare with the first evaluation: the training loss has dropout and maybe another unit.

    If the training loss fell, the run overfits instead.
    """
    val, train = (drop_leading_zeros(drop_non_finite(history[name])) for name in ("val/loss", "train/loss"))
    last = train.values[-min(BLOCK_SIZE, max(1, len(train) // 2)) :]
    fell = len(train) > 1 and np.median(last) < train.values[0]
    if fell or len(val) < (3 if len(val) and val.steps[0] == 0 else thresholds.min_points):
        return None
    return _find_rise_above_start("val/loss", val, 0.0)


def _is_long_below_start(values: np.ndarray) -> bool:
    """Return whether the end of the curve is clearly below its first value."""
    n_last = max(2, math.ceil(BELOW_START_FRACTION * len(values)))
    bound = values[0] - BELOW_START_MARGIN * abs(values[0])
    return len(values) > 2 * n_last and bool(values[-n_last:].max() < bound)


def _find_far_climb(history: History) -> LossRise | None:
    """Return a climb row by row in a log of few rows, to far above where it began."""
    climb = find_climb(history)
    if climb is None or climb.fraction < JUMP_FRACTION:
        return None
    return LossRise("train/loss", climb.step, climb.before, climb.last, f"rose in each of {climb.n_rises} rows since")


def _find_lasting_jump(name: str, losses: Series) -> LossRise | None:
    """Return a jump that does not come back; one that still falls at the end is a spike so far."""
    at = find_jump(losses)
    if at is None:
        return None
    before, after, last = float(losses.values[at - 1]), losses.values[at:], losses.values[-RETURN_ROWS:]
    is_returning = (np.diff(last) < 0).all() and last[0] - last[-1] > RETURN_FRACTION * (after.max() - before)
    if is_returning and last[-1] == after.min():
        return None
    return LossRise(name, int(losses.steps[at - 1]), before, float(np.median(after)), "jumped and stayed there")


def _find_lasting_rise(levels: Series, thresholds: Thresholds, is_mean: bool) -> LossRise | None:
    """Return a rise if all of the last levels are far above the best one, in units of its size and of the noise.

    Low losses may be means of all rows so far (`is_mean`), of which the first ones differ by chance.
    """
    steps, values = levels
    best, n_last = int(np.argmin(values)), max(2, math.ceil(DIVERGED_FRACTION * len(values)))
    scale, noise = loss_scale(levels, float(values[best])), _level_noise(values)
    few, many = NOISE_FACTORS
    is_early = is_mean and best < EARLY_FRACTION * len(values)
    margin = max((1.0 if is_early else thresholds.spike_fraction) * scale, min(many * noise, max(scale, few * noise)))
    last = values[best + 1 :][-n_last:]
    if len(last) < n_last or last.min() <= values[best] + margin:
        return None
    return LossRise("train/loss", int(steps[best]), float(values[best]), float(last.min()), "stayed far above it since")


def _level_noise(values: np.ndarray) -> float:
    return estimate_noise(values) if len(values) > 4 else float(np.median(np.abs(np.diff(values))))


def _find_rise_above_start(name: str, losses: Series, noise: float) -> LossRise | None:
    """Return a rise if much of the run was above twice its start, even if it came back when the LR fell.

    A loss that has long been below its start learnt after all. A first value at step 0 far below all that follow, which
    fall, was of fewer examples.
    """
    steps, values = losses
    is_odd_start = steps[0] == 0 and len(values) > 2 and values[1:].min() > ODD_START_FACTOR * values[0] > 0
    if (is_odd_start and values[-1] < values[1:3].min()) or _is_long_below_start(values):
        return None
    margin = max(loss_scale(losses, float(values[0])), NOISE_FACTORS[1] * noise)
    above = values > values[0] + margin
    if above.mean() < DIVERGED_FRACTION:
        return None
    first = np.flatnonzero(above)[0]
    text = f"more than twice that in {above.sum()} of {len(above)} points since"
    return LossRise(name, int(steps[max(0, first - 1)]), float(values[0]), float(values[above].max()), text)


def _describe_divergence(
    history: History,
    step: int,
    confidence: float,
    reason: str,
    evidence: Evidence,
    suggestions: tuple[Suggestion, ...] | None = None,
) -> Diagnosis:
    evidence |= find_last_checkpoint(history, step)
    if suggestions is None:
        suggestions = (suggest_lr(history, 1 / 3, step), *suggest_rollback(history, step))
    return Diagnosis("divergence", step, confidence, reason, evidence, suggestions)


def find_last_checkpoint(history: History, step: int) -> Evidence:
    """Return the last checkpoint up to `step` as evidence, empty if there is none."""
    saved = [checkpoint for checkpoint in history.checkpoints if checkpoint <= step]
    return {"last good checkpoint": max(saved)} if saved else {}
