"""What the figures are worth: evaluations that are noise, units that differ, a machine that slowed down."""

from collections.abc import Iterator, Sequence

import numpy as np

from harness.events import Verdict
from harness.verdicts.history import History
from harness.verdicts.stretch import finite
from harness.verdicts.thresholds import Thresholds
from harness.verdicts.trend import scatter

FEWEST_ROWS, FEWEST_EVALS = 12, 8
DECISIVE, OFTEN = 2 * 2**0.5, 0.3
"""Two standard deviations of a difference; share of evaluations that are worse than the one before, half by chance."""


def noisy_evaluation(history: History, limits: Thresholds) -> Iterator[Verdict]:
    """The steps from one best to the next are smaller than an evaluation's noise: which one is best is chance."""
    losses = finite(history["val/loss"])
    values = losses.values[losses.steps > 0]
    if len(values) < FEWEST_EVALS:
        return
    noise = scatter(values)
    half = values[len(values) // 4 :]
    bests = np.minimum.accumulate(half)
    gains = -np.diff(bests)[np.diff(bests) < 0]
    gain = float(np.median(gains)) if len(gains) else 0.0
    turns = float((np.diff(half) > 0).mean())
    if noise < limits.noise_share * abs(np.median(half)) or gain >= DECISIVE * noise or turns < OFTEN:
        return
    evidence: dict[str, float | str] = {"noise": noise, "median gain": gain, "rises": turns, "evaluations": len(values)}
    told = (
        f"from one best to the next val/loss falls by {gain:.2g}, and one evaluation varies by {noise:.2g}: "
        "which one is best is chance"
    )
    errors = history["val/loss_se"].values
    if len(errors):
        evidence["standard error"] = float(np.median(errors))
    yield Verdict("noisy evaluation", history.last_step, 0.9, told, evidence, ("data.val_share=0.1",))


def throughput_fell(history: History, limits: Thresholds) -> Iterator[Verdict]:
    """The last quarter of the run is far slower than its first half, and by more than its ups and downs."""
    for name in ("perf/tokens_per_second", "perf/steps_per_second"):
        speeds = finite(history[name])
        if len(speeds) >= FEWEST_ROWS:
            yield from _slower(name, speeds.steps, speeds.values, limits)
            return


def changed_measure(history: History, limits: Thresholds) -> Iterator[Verdict]:
    """Evaluations of one run that cover different shares of the validation set."""
    coverage = finite(history["val/coverage"])
    if len(coverage) > 1 and np.ptp(coverage.values) > limits.coverage_gap:
        low, high = float(coverage.values.min()), float(coverage.values.max())
        told = f"val/coverage goes from {low:.1%} to {high:.1%} during the run: its losses are of different sets"
        yield Verdict("incomparable", int(coverage.steps[-1]), 1.0, told, {"coverage from": low, "to": high})


def compare(histories: Sequence[History], limits: Thresholds | None = None) -> list[Verdict]:
    """What forbids to rank these runs by their validation loss: another unit, or another share of the set."""
    limits = limits or Thresholds()
    found = []
    units = {history.facts.unit for history in histories if history.facts.unit}
    if len(units) > 1:
        named = ", ".join(sorted(units))
        told = f"the losses are in different units ({named}): read one that all have, such as val/bits_per_byte"
        found.append(Verdict("incomparable", 0, 1.0, told, {"units": named}))
    shares = [history["val/coverage"].values[-1] for history in histories if len(history["val/coverage"])]
    if shares and max(shares) - min(shares) > limits.coverage_gap:
        told = f"the losses cover {min(shares):.1%} to {max(shares):.1%} of the validation set: evaluate all of it"
        evidence = {"coverage from": float(min(shares)), "to": float(max(shares))}
        found.append(Verdict("incomparable", 0, 1.0, told, evidence))
    return found


def _slower(name: str, steps: np.ndarray, speeds: np.ndarray, limits: Thresholds) -> Iterator[Verdict]:
    early, late = speeds[1 : len(speeds) // 2], speeds[-(len(speeds) // 4) :]
    before, now = float(np.median(early)), float(np.median(late))
    if now < (1 - limits.slow_share) * before and np.quantile(late, 0.75) < np.quantile(early, 0.25):
        step = int(steps[-(len(speeds) // 4)])
        told = f"{name.removeprefix('perf/').replace('_', ' ')} fell from {before:.3g} to {now:.3g} by step {step}"
        evidence = {"before": before, "now": now, "from step": step}
        yield Verdict("throughput fell", step, 0.95, told, evidence)
