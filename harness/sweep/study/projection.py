"""Values of partial trials, projected to the end of the run."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

HUGE = 1e100  # larger values count as diverged
MIN_GAINS = 3  # trials from which the gain between two shares of a run is estimated
CLIP, CLIP_LEVEL = 2.0, 0.75  # values are at most so many times as far from the best one as this quantile is


@dataclass(frozen=True)
class TrialCurve:
    """Best values of a trial so far, smaller is better, at increasing percents of its run; empty if it diverged."""

    percents: Sequence[int]
    values: Sequence[float]

    @property
    def end(self) -> int:
        return self.percents[-1]

    def value_at(self, percent: int) -> float | None:
        """Return the best value up to a percent of the run; None before the first one."""
        index = bisect_right(self.percents, percent)
        return self.values[index - 1] if index else None


def read_curve(trial: FrozenTrial, direction: StudyDirection) -> TrialCurve | None:
    """Return the curve of a trial that has values of a part of its run, or of all of it; else None.

    The objective of a complete trial counts as its value at 100%. Values before training are left out: they say nothing
    about the params.
    """
    sign = -1.0 if direction == StudyDirection.MAXIMIZE else 1.0
    points = {step: sign * value for step, value in sorted(trial.intermediate_values.items()) if 0 < step < 100}
    if trial.state == TrialState.FAIL or not (points or trial.state.is_finished()):
        return None
    if any(value > 0 for value in trial.constraints.values()) or not _is_usable(trial.value or 0.0):
        return TrialCurve((), ())
    best, percents, values = math.inf, [], []
    for step, value in points.items():
        if _is_usable(value):
            best = min(best, value)
            percents.append(step)
            values.append(best)
    if trial.state == TrialState.COMPLETE and trial.value is not None:
        percents.append(100)
        values.append(sign * trial.value)
    return TrialCurve(percents, values)


def _is_usable(value: float) -> bool:
    return abs(value) < HUGE  # not of NaN


def project_curves(curves: Sequence[TrialCurve]) -> np.ndarray:
    """Return the value at 100% of the run that is expected of each curve, smaller is better, in bounds.

    A partial curve is expected to gain, up to each share at which others stopped, what the median of those that went on
    has gained. Bad values, and those of diverged trials, are clipped.
    """
    stops = sorted({curve.end for curve in curves if curve.percents} | {100})
    steps = [0.0]
    for start, end in pairwise(stops):
        steps.append(_median_gain(curves, start, end, default=steps[-1]))
    gains = dict(zip(stops, [*np.cumsum(steps[:0:-1])[::-1], 0.0], strict=True))
    projected = np.array([curve.values[-1] - gains[curve.end] if curve.percents else math.inf for curve in curves])
    finite = projected[np.isfinite(projected)]
    if not len(finite):
        return np.zeros(len(curves))  # nothing can be told apart
    best = finite.min()
    usual = np.quantile(finite, CLIP_LEVEL)
    return np.minimum(projected, best + CLIP * max(usual - best, 0.0))


def _median_gain(curves: Sequence[TrialCurve], start: int, end: int, default: float) -> float:
    gains = []
    for curve in curves:
        if curve.percents and curve.end >= end:
            before, after = curve.value_at(start), curve.value_at(end)
            if before is not None and after is not None:
                gains.append(before - after)
    return float(np.median(gains)) if len(gains) >= MIN_GAINS else default
