"""What the figures are worth: evaluations that are noise, units that differ, a machine that slowed down."""

import math
from collections.abc import Iterator, Sequence

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History, Series
from harness.diagnosis.plateau_window import drop_non_finite, loss_scale
from harness.diagnosis.thresholds import Thresholds
from harness.diagnosis.trend import estimate_noise

MIN_ROWS, MIN_EVALS = 12, 8
NOISE_FACTOR, MIN_RISE_SHARE = 2 * 2**0.5, 0.3
"""Two standard deviations of a difference; share of evaluations that are worse than the one before, half by chance."""
MAX_VAL_SHARE = 0.3
"""Share of the data beyond which training on less costs more than surer evaluations bring."""
N_RECENT_EVALS = 4
"""Evaluations, the present one included."""


def detect_noisy_evaluation(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The steps from one best to the next are smaller than an evaluation's noise: which one is best is chance. It is
    enough that this held at one of the last evaluations, for the noise is itself measured with noise."""
    losses = drop_non_finite(history["val/loss"])
    values = losses.values[losses.steps > 0]
    ends = range(max(MIN_EVALS, len(values) - N_RECENT_EVALS + 1), len(values) + 1)
    read = [_measure_noise(history, limits, values[:end]) for end in ends]
    seen = next((one for one in reversed(read) if one), None)
    if seen is None:
        return
    told = (
        f"from one best to the next val/loss falls by {seen['median gain']:.2g}, and one evaluation varies by "
        f"{seen['noise']:.2g}: which one is best is chance; hold out more examples"
    )
    errors = drop_non_finite(history["val/loss_se"]).values
    if len(errors):
        seen["standard error"] = float(np.median(errors))
    share = history.facts.val_fraction
    overrides = (f"data.val_fraction={min(MAX_VAL_SHARE, 2 * share):.2g}",) if share and share < MAX_VAL_SHARE else ()
    yield Diagnosis("noisy evaluation", history.last_step, 0.9, told, seen, overrides)


def _measure_noise(history: History, limits: Thresholds, values: np.ndarray) -> dict[str, float | str] | None:
    """The noise of these evaluations and the median gain of a best, where the one hides the other."""
    later = values[len(values) // 4 :]
    noise = estimate_noise(later)
    gains = -np.diff(np.minimum.accumulate(later))
    gain = float(np.median(gains[gains > 0])) if gains.any() else math.inf
    rises = float((np.diff(later) > 0).mean())
    is_small = noise < limits.noise_share * loss_scale(history["val/loss"], float(np.median(later)))
    if is_small or gain >= NOISE_FACTOR * noise or rises < MIN_RISE_SHARE:
        return None
    return {"noise": noise, "median gain": gain, "share of rises": rises, "evaluations": len(values)}


def detect_throughput_drop(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """The last quarter of the run is far slower than its first half, and by more than its ups and downs."""
    for name in ("perf/tokens_per_second", "perf/steps_per_second"):
        speeds = drop_non_finite(history[name])
        if len(speeds) >= MIN_ROWS:
            yield from _find_slowdown(history, name, speeds, limits)
            return


def detect_coverage_change(history: History, limits: Thresholds) -> Iterator[Diagnosis]:
    """Evaluations of one run that cover different shares of the validation set."""
    coverage = drop_non_finite(history["val/coverage"])
    if len(coverage) > 1 and np.ptp(coverage.values) > limits.coverage_gap:
        low, high = float(coverage.values.min()), float(coverage.values.max())
        told = f"val/coverage goes from {low:.1%} to {high:.1%} during the run: its losses are of different sets"
        yield Diagnosis("incomparable", int(coverage.steps[-1]), 1.0, told, {"coverage from": low, "to": high})


def check_comparability(histories: Sequence[History], limits: Thresholds | None = None) -> list[Diagnosis]:
    """What forbids to rank these runs by their validation loss: another unit, or another share of the set."""
    limits = limits or Thresholds()
    found = []
    units = {history.facts.unit for history in histories if history.facts.unit}
    if len(units) > 1:
        named = ", ".join(sorted(units))
        told = f"the losses are in different units ({named}): read one that all have, such as val/bits_per_byte"
        found.append(Diagnosis("incomparable", 0, 1.0, told, {"units": named}))
    shares = [history["val/coverage"].values[-1] for history in histories if len(history["val/coverage"])]
    if shares and max(shares) - min(shares) > limits.coverage_gap:
        told = f"the losses cover {min(shares):.1%} to {max(shares):.1%} of the validation set: evaluate all of it"
        evidence = {"coverage from": float(min(shares)), "to": float(max(shares))}
        found.append(Diagnosis("incomparable", 0, 1.0, told, evidence))
    return found


def _find_slowdown(history: History, name: str, speeds: Series, limits: Thresholds) -> Iterator[Diagnosis]:
    quarter = len(speeds) // 4
    early, late = speeds.values[1 : len(speeds) // 2], speeds.values[-quarter:]
    before, now = float(np.median(early)), float(np.median(late))
    step, last = int(speeds.steps[-quarter]), int(speeds.steps[-1])
    amounts = history.tokens_at(np.array([step, last])) if "tokens" in name else np.array([step, last])
    seconds = math.inf if amounts is None else float(np.diff(amounts)[0]) / now
    is_apart = np.quantile(late, 0.75) < np.quantile(early, 0.25)
    if now < (1 - limits.slow_share) * before and is_apart and seconds >= limits.slow_seconds:
        what = name.removeprefix("perf/").replace("_", " ")
        told = f"{what} fell from {before:.3g} to {now:.3g} by step {step}: look at the machine and the data loading"
        evidence = {"before": before, "now": now, "from step": step, "for seconds": seconds}
        yield Diagnosis("throughput fell", step, 0.95, told, evidence)
