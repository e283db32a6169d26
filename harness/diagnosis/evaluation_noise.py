"""Diagnoses of the measurements themselves: noisy evaluations, changing coverage, falling throughput."""

import math
from collections.abc import Iterator

import numpy as np

from harness.core.events import Diagnosis, Suggestion
from harness.diagnosis.history import Evidence, History, Series
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.suggestions import round_digits
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import count_turns, estimate_noise, fit_trend

MIN_SPEED_ROWS, MIN_NOISE_EVALS = 12, 8
NOISE_FACTOR = 2 * 2**0.5  # two standard deviations of a difference
MIN_RISE_FRACTION = 0.3  # of evaluations worse than the one before; pure noise gives half
MIN_TURN_FRACTION = 1 / 3  # of inner evaluations at which the loss turns; pure noise gives two thirds
NEAR_ZERO_FRACTION = 0.3  # of what differences between losses near 0 usually refer to
MAX_VAL_FRACTION = 0.3  # beyond it, less training data costs more than surer evaluations bring
MAX_FALL_IN_NOISE = 3.0  # over the later half of the evaluations; beyond it, later ones clearly are better
MAX_NOISE_FRACTION = 0.15  # of the loss; evaluations that vary by more show a model that changes, not few examples
N_RECENT_EVALS = 4  # including the present one


def detect_noisy_evaluation(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if improvements of the best loss are smaller than the noise of an evaluation.

    One of the last few evaluations must show it, since the noise itself is estimated with noise.
    """
    losses = drop_non_finite(history["val/loss"])
    values = losses.values[losses.steps > 0]
    ends = range(len(values), max(MIN_NOISE_EVALS, len(values) - N_RECENT_EVALS + 1) - 1, -1)
    evidence = next(filter(None, (_measure_noise(history, thresholds, values[:end]) for end in ends)), None)
    if evidence is None:
        return
    reason = (
        f"new best values of val/loss improve by {evidence['median gain']:.2g}, but one evaluation varies by "
        f"{evidence['noise']:.2g}: which one is best is chance; hold out more examples"
    )
    errors = drop_non_finite(history["val/loss_se"]).values
    if len(errors):
        evidence["standard error"] = float(np.median(errors))
    fraction = history.facts.val_fraction
    suggestions: tuple[Suggestion, ...] = ()
    if fraction and fraction < MAX_VAL_FRACTION:
        suggestions = (Suggestion("data.val_fraction", round_digits(min(MAX_VAL_FRACTION, 2 * fraction))),)
    yield Diagnosis("noisy evaluation", history.last_step, 0.9, reason, evidence, suggestions)


def _measure_noise(history: History, thresholds: Thresholds, values: np.ndarray) -> Evidence | None:
    """Return the noise of evaluations and the median gain of a new best; None if gains stand out."""
    later = values[len(values) // 4 :]
    noise = estimate_noise(later)
    gains = -np.diff(np.minimum.accumulate(later))
    gain = float(np.median(gains[gains > 0])) if gains.any() else math.inf
    rises = float((np.diff(later) > 0).mean())
    is_smooth = count_turns(later) < max(2, MIN_TURN_FRACTION * (len(later) - 2))
    level = float(np.median(later))
    scale = max(abs(level), NEAR_ZERO_FRACTION * loss_scale(history["val/loss"], level))
    is_usual = thresholds.noise_fraction * scale <= noise <= MAX_NOISE_FRACTION * scale
    if (
        is_smooth
        or not is_usual
        or _still_falls(values, noise)
        or gain >= NOISE_FACTOR * noise
        or rises < MIN_RISE_FRACTION
    ):
        return None
    return {"noise": noise, "median gain": gain, "fraction of rises": rises, "evaluations": len(values)}


def _still_falls(values: np.ndarray, noise: float) -> bool:
    """Return whether the later half of the evaluations falls by far more than their noise."""
    late = values[len(values) // 2 :]
    trend = fit_trend(np.linspace(0, 1, len(late)), late)
    return -trend.slope > MAX_FALL_IN_NOISE * noise


def detect_throughput_drop(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if the last quarter of the run is much slower than its first half."""
    for name in ("perf/tokens_per_second", "perf/steps_per_second"):
        speeds = drop_non_finite(history[name])
        if len(speeds) >= MIN_SPEED_ROWS:
            yield from _find_slowdown(history, name, speeds, thresholds)
            return


def _find_slowdown(history: History, name: str, speeds: Series, thresholds: Thresholds) -> Iterator[Diagnosis]:
    quarter = len(speeds) // 4
    early, late = speeds.values[1 : len(speeds) // 2], speeds.values[-quarter:]
    before, now = float(np.median(early)), float(np.median(late))
    first, last = int(speeds.steps[-quarter]), int(speeds.steps[-1])
    amounts = history.tokens_at(np.array([first, last])) if "tokens" in name else np.array([first, last])
    seconds = math.inf if amounts is None else float(np.diff(amounts)[0]) / now
    is_separate = np.quantile(late, 0.75) < np.quantile(early, 0.25)
    is_slow = now < (1 - thresholds.slowdown_fraction) * before and seconds >= thresholds.slowdown_seconds
    if is_slow and is_separate:
        unit = name.removeprefix("perf/").replace("_", " ")
        when = history.describe_step(first)
        reason = f"{unit} fell from {before:.3g} to {now:.3g} by {when}: check the machine and the data loading"
        evidence: Evidence = {"before": before, "now": now, "from step": first, "for seconds": seconds}
        yield Diagnosis("throughput fell", first, 0.95, reason, evidence)


def detect_coverage_change(history: History, thresholds: Thresholds) -> Iterator[Diagnosis]:
    """Yield a diagnosis if evaluations of the run score different parts of the validation set."""
    coverage = drop_non_finite(history["val/coverage"])
    if len(coverage) > 1 and np.ptp(coverage.values) > thresholds.coverage_gap:
        low, high = float(coverage.values.min()), float(coverage.values.max())
        reason = f"val/coverage varies from {low:.1%} to {high:.1%}: the losses are of different sets"
        yield Diagnosis("incomparable", int(coverage.steps[-1]), 1.0, reason, {"coverage from": low, "to": high})
