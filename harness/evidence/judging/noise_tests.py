"""Tests of one change against the noise between repeated runs.

One run: prediction interval for a future observation from the repeats (Hahn & Meeker 1991), with the quantile of
Student's t of at most MOST_FREEDOM degrees of freedom, since the tails of the noise are not known to be normal.
Fresh runs: `compare_losses`, whose error holds for any noise. The first run of a candidate is left out: it is the one
that the candidate was chosen for.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from harness.evidence.judging.judgement import Evidence, NoiseFloor
from harness.evidence.judging.run_log import LoggedConfig, RunLog
from harness.evidence.statistics.seed_comparison import compare_losses

FEWEST_REPEATS = 3
MOST_FREEDOM = 3
"""The tail of Student's t with so many degrees of freedom is as heavy as any noise that single runs are judged for."""


def measure_noise(log: RunLog, reference: LoggedConfig) -> NoiseFloor:
    """Return the noise floor from the repeats of the reference, or else from those of all configurations."""
    if len(reference.values) >= FEWEST_REPEATS:
        sd = float(np.std(reference.values, ddof=1))
        runs = tuple(run.number for run in reference.measured)
        return NoiseFloor(sd, len(runs) - 1, runs, f"{len(runs)} runs of {reference.label}")
    repeated = [config for config in log.configs if len(config.values) > 1]
    freedom = sum(len(config.values) - 1 for config in repeated)
    runs = tuple(run.number for config in repeated for run in config.measured)
    if freedom < FEWEST_REPEATS - 1:
        return NoiseFloor(None, freedom, runs, "no configuration was run 3 times")
    squares = sum(float(np.var(config.values, ddof=1)) * (len(config.values) - 1) for config in repeated)
    names = " and ".join(config.label for config in repeated[:3]) + " and others" * (len(repeated) > 3)
    return NoiseFloor(math.sqrt(squares / freedom), freedom, runs, f"{len(runs)} runs of {names}")


def compare_with_noise(
    log: RunLog, value: float, reference: Sequence[float], noise: NoiseFloor, level: float
) -> Evidence:
    """Test the value of a candidate's first run against the noise floor, at a one-sided level."""
    assert noise.sd is not None
    freedom = min(noise.freedom, MOST_FREEDOM)
    error = noise.sd * math.sqrt(1 + 1 / len(reference))
    difference = value - float(np.mean(reference))
    gain = -log.sign * difference
    p = float(stdtr(freedom, -gain / error)) if error else math.nan
    margin = float(stdtrit(freedom, 1 - level)) * error
    method = f"first run: prediction interval from {noise.freedom + 1} repeats, t with {freedom} degrees of freedom"
    return Evidence(
        difference, difference - margin, difference + margin, 1 - 2 * level, p, level, method, len(reference), 1,
        gain > margin,
    )  # fmt: skip


def compare_fresh_runs(log: RunLog, fresh: Sequence[float], reference: Sequence[float], level: float) -> Evidence:
    """Compare the fresh runs of a candidate with those of the reference at a level."""
    costs = [[log.sign * value for value in values] for values in (reference, fresh)]
    found = compare_losses(*costs, confidence=1 - level)
    low, high = sorted((log.sign * found.low, log.sign * found.high))
    return Evidence(
        log.sign * found.difference, low, high, found.confidence, found.p, level, f"fresh runs: {found.method}",
        len(reference), len(fresh), found.status == "better",
    )  # fmt: skip
