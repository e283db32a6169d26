"""Where the loss left its course: spikes, and what did not come back."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History, Series
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import rolling_baseline

MIN_SPIKE_STEPS = 3
"""Steps that a spike lasts at least, as for the policy that watches for them, for one odd batch is none; and values
below the ceiling in a row that end it."""
MAX_SPIKES = 5
"""Spikes told one by one, the first ones."""
MIN_TRAIN_ROWS, MIN_EVALS = 10, 2
"""Values that say what is usual."""
BLOCK_SIZE = 5
DIVERGED_SHARE = 0.15
"""Share of the run over which a loss that has left its course stayed away."""


class LossRise(NamedTuple):
    """Of the loss `name` from `before`, its level at step `step`, to `now`; `ended` says how."""

    name: str
    step: int
    before: float
    now: float
    ended: str


class LossPeak(NamedTuple):
    """A rise after step `began_at` whose largest value was `loss`; `until` is the step at which it was over."""

    began_at: int
    step: int
    loss: float
    usual: float
    z: float
    until: int | None


def detect_spikes(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """Each rise far above what was usual, by median and median absolute deviation; those seen live come with the
    examples that fed them."""
    told = [_describe_live_spike(history, limits, spiked) for spiked in history.spikes]
    near = [spiked.began_at for spiked in history.spikes]
    reach = 4 * history.facts.log_every
    for peak in find_loss_peaks(history, limits):
        if all(abs(peak.began_at - other) > reach for other in near):
            told.append(_describe_spike(history, peak, _estimate_examples(history, peak)))
    yield from sorted(told, key=lambda diagnosis: diagnosis.evidence["began at"])[:MAX_SPIKES]


def detect_divergence(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The loss is no number any more, or has risen far above its best and stayed there."""
    for name in ("train/loss", "val/loss"):
        values = history[name].values
        is_over = history.facts.status == "diverged"
        if len(values) and not np.isfinite(values[-1 if is_over else -2 :]).any():
            step = _last_finite_step(history[name])
            yield _describe_divergence(
                history, step, 1.0, f"{name} is no finite number after step {step}", {"last good step": step}
            )
            return
    rise = _find_train_rise(history, limits) or _find_val_rise(history)
    if rise:
        name, step, before, now, ended = rise
        told = f"{name} was {before:.4g} at step {step} and {ended}, at {now:.4g}"
        yield _describe_divergence(history, step, 0.95, told, {"good at step": step, "good": before, "then": now})
    elif history.facts.status == "diverged":
        yield _describe_divergence(history, history.last_step, 1.0, f"the run diverged at step {history.last_step}", {})


def find_loss_peaks(history: History, limits: Thresholds) -> list[LossPeak]:
    """Of the training loss where it was recorded often enough, else of the validation loss."""
    train, val = drop_non_finite(history["train/loss"]), drop_non_finite(history["val/loss"])
    if len(train) > MIN_TRAIN_ROWS:
        middle, spread = rolling_baseline(train.values, MIN_TRAIN_ROWS)
        return _find_peaks_above(
            train, middle, middle + _spike_margin(train, limits, middle, spread), spread, MIN_SPIKE_STEPS
        )
    middle, spread = rolling_baseline(val.values, MIN_EVALS, stride=1)
    return _find_peaks_above(val, middle, middle + _spike_margin(val, limits, middle, spread), spread, 1)


def _find_peaks_above(
    series: Series, middle: np.ndarray, ceiling: np.ndarray, spread: np.ndarray, few: int
) -> list[LossPeak]:
    steps, values = series
    found: list[LossPeak] = []
    end = 0
    for at in np.flatnonzero(values > ceiling):
        if at < end:
            continue
        below = np.convolve(values[at:] <= ceiling[at], np.ones(few), "valid") == few  # and stays there
        back = np.flatnonzero(below)
        end = int(at + back[0]) if len(back) else len(values)
        began_at, top = int(steps[at - 1]), at + int(np.argmax(values[at:end]))
        if steps[end - 1] - began_at >= few:
            z = (values[top] - middle[at]) / spread[at] if spread[at] else math.inf
            until = int(steps[end]) if end < len(values) else None
            found.append(LossPeak(began_at, int(steps[top]), float(values[top]), float(middle[at]), float(z), until))
    return found


def _spike_margin(losses: Series, limits: Thresholds, middle: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How far above what is usual is far."""
    shares = limits.spike_share * np.maximum(np.abs(middle), loss_scale(losses, 0.0))
    return np.maximum(np.maximum(limits.spike_z * spread, shares), limits.spike_rise)


def _describe_live_spike(history: History, limits: Thresholds, spiked: tuple) -> Diagnosis:
    step, began_at, loss, usually, examples, back_to = spiked
    losses = drop_non_finite(history["train/loss"])
    ceiling = usually + _spike_margin(losses, limits, np.array(usually), np.array(0.0))
    good = losses.steps[(losses.steps > step) & (losses.values <= ceiling)]
    until = back_to if back_to is not None else (int(good[0]) if len(good) else None)
    return _describe_spike(history, LossPeak(began_at, step, loss, usually, math.nan, until), examples, back_to)


def _describe_spike(
    history: History, peak: LossPeak, examples: tuple[int, int] | None, back_to: int | None = None
) -> Diagnosis:
    good = [step for step in history.checkpoints if step <= peak.began_at]
    evidence: dict[str, float | str] = {
        "began at": peak.began_at,
        "highest at": peak.step,
        "loss": peak.loss,
        "usual": peak.usual,
    }
    if peak.z == peak.z:
        evidence["z"] = peak.z
    if examples:
        evidence |= {"from example": examples[0], "to example": examples[1]}
    tokens = history.tokens_at(np.array([peak.began_at, peak.step]))
    if tokens is not None:
        evidence |= {"from token": float(tokens[0]), "to token": float(tokens[1])}
    if good:
        evidence["last good checkpoint"] = max(good)
    ended = "and has not come back" if peak.until is None else f"and was back at step {peak.until}"
    if back_to is not None:
        ended = f"and the run went back to step {back_to}"
    evidence["recovered"] = "no" if peak.until is None else "yes"
    fed = f", fed by examples {examples[0]} to {examples[1]}" if examples else ""
    told = f"the loss rose from about {peak.usual:.4g} to {peak.loss:.4g} after step {peak.began_at}{fed}, {ended}"
    confidence = 1.0 if peak.z != peak.z else 1 - 0.5 * math.exp(-peak.z / 4)
    overrides = ("loop.on_spike=rollback", *_suggest_lower_lr(history, 2))
    return Diagnosis("spike", peak.step, confidence, told, evidence, overrides)


def _estimate_examples(history: History, peak: LossPeak) -> tuple[int, int] | None:
    size = history.facts.batch_size
    return (peak.began_at * size, peak.step * size) if size else None


def _find_train_rise(history: History, limits: Thresholds) -> LossRise | None:
    losses = drop_non_finite(history["train/loss"])
    count = len(losses) // BLOCK_SIZE
    if count < 3:
        return None
    levels = np.median(losses.values[: count * BLOCK_SIZE].reshape(count, BLOCK_SIZE), axis=1)
    blocks = Series(losses.steps[BLOCK_SIZE - 1 :: BLOCK_SIZE][:count], levels)
    whole = Series(np.r_[losses.steps[:1], blocks.steps], np.r_[losses.values[:1], levels])
    return _find_lasting_rise(blocks, limits) or _find_rise_above_start("train/loss", whole)


def _find_val_rise(history: History) -> LossRise | None:
    """Held against itself before training, for it is measured without dropout, and may be in another unit; where the
    training loss came down, it overfits."""
    val, train = drop_non_finite(history["val/loss"]), drop_non_finite(history["train/loss"])
    fell = len(train) >= BLOCK_SIZE and np.median(train.values[-BLOCK_SIZE:]) < train.values[0]
    return None if len(val) < 3 or val.steps[0] > 0 or fell else _find_rise_above_start("val/loss", val)


def _find_lasting_rise(levels: Series, limits: Thresholds) -> LossRise | None:
    """Where all of the last levels lie far above the best."""
    steps, values = levels
    best, least = int(np.argmin(values)), max(2, math.ceil(DIVERGED_SHARE * len(values)))
    noise = np.median(np.abs(np.diff(values[: best + 1]))) if best > 2 else 0.0
    far = min(
        _spike_margin(levels, limits, values[best], noise), loss_scale(levels, values[best])
    )  # twice the best is far
    last = values[best + 1 :][-least:]
    if len(last) < least or last.min() <= values[best] + far:
        return None
    return LossRise(
        "train/loss", int(steps[best]), float(values[best]), float(last.min()), "has stayed far above it since"
    )


def _find_rise_above_start(name: str, losses: Series) -> LossRise | None:
    """Where a good part of the run lay at twice its start and more, even if it came back when the LR fell."""
    steps, values = losses
    above = values > values[0] + loss_scale(losses, values[0])
    if above.mean() < DIVERGED_SHARE:
        return None
    first, last = np.flatnonzero(above)[[0, -1]]
    ended = f"more than twice that up to step {steps[last]}"
    return LossRise(name, int(steps[max(0, first - 1)]), float(values[0]), float(values[above].max()), ended)


def _last_finite_step(series: Series) -> int:
    good = series.steps[np.isfinite(series.values)]
    return int(good[-1]) if len(good) else 0


def _describe_divergence(
    history: History, step: int, confidence: float, told: str, evidence: dict[str, float | str]
) -> Diagnosis:
    good = [saved for saved in history.checkpoints if saved <= step]
    evidence |= {"last good checkpoint": max(good)} if good else {}
    overrides = (*_suggest_lower_lr(history, 3), "loop.on_spike=rollback")
    return Diagnosis("divergence", step, confidence, told, evidence, overrides)


def _suggest_lower_lr(history: History, by: float) -> tuple[str, ...]:
    lr = history.facts.peak_lr or max(history["train/lr"].values, default=0.0)
    return (f"optimizer.lr={lr / by:.2g}",) if lr else ()
