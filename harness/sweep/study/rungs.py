"""Rungs: shares of a run in percent, which are the steps of Optuna's intermediate values."""

import math
from collections.abc import Sequence

from optuna.trial import FrozenTrial

FULL_RUN = 100
MAX_START = 0.9  # rungs begin here at the latest


def to_rung(share: float) -> int:
    """Convert a share of the run to a rung.

    Runs that spend the same tokens reach the same rungs, whatever their batch size.
    """
    return round(FULL_RUN * share)


def place_rungs(shares: Sequence[float], start: float) -> tuple[float, ...]:
    """Return the shares of a run that are so many shares of what follows the share `start`."""
    start = min(start, MAX_START)
    return tuple(start + (1 - start) * share for share in shares)


def list_rung_costs(trial: FrozenTrial, rungs: Sequence[int], sign: int) -> list[float]:
    """Return the best cost until each rung that a trial has reached; infinity if there is no finite one.

    A value before training, at 0%, says nothing about the trial. `sign` is -1 if the study maximizes, else 1.
    """
    values = [(at, value) for at, value in sorted(trial.intermediate_values.items()) if at > 0]
    costs = []
    for rung in rungs:
        reached_at = next((at for at, _ in values if at >= rung), None)
        if reached_at is None:
            break
        costs.append(min((sign * value for at, value in values if at <= reached_at and math.isfinite(value)),
                         default=math.inf))  # fmt: skip
    return costs
