"""Values of partial trials, projected to the end of the run."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.optuna_internals import UnitCube
from harness.sweep.study.rungs import FULL_RUN

HUGE = 1e100  # larger values count as diverged
MIN_GAINS, MIN_MODEL_GAINS = 3, 6  # trials from which the median gain, and its dependence on the params, is estimated
OUTLIER_LEVEL = 0.9  # gains beyond this quantile are clipped, at twice its distance from the median
MAX_DEVIATION = 3.0  # standard deviations beyond which values are clipped
MIN_SPREAD = 0.1  # added to standard deviations, so that a param that hardly varies has little weight
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
    points = {step: sign * value for step, value in sorted(trial.intermediate_values.items()) if 0 < step < FULL_RUN}
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
        percents.append(FULL_RUN)
        values.append(sign * trial.value)
    return TrialCurve(percents, values)


def _is_usable(value: float) -> bool:
    return abs(value) < HUGE  # not of NaN


def project_trials(trials: Sequence[FrozenTrial], direction: StudyDirection) -> dict[int, float]:
    """Return the cost that is expected at the end of its run of each trial that has values; smaller is better."""
    known = [(trial, curve) for trial in trials if trial.params and (curve := read_curve(trial, direction)) is not None]
    points = encode_shared_params([trial for trial, _ in known])
    costs = project_curves([curve for _, curve in known], points)
    return {trial.number: float(cost) for (trial, _), cost in zip(known, costs, strict=True)}


def encode_shared_params(trials: Sequence[FrozenTrial]) -> np.ndarray:
    """Return the params that all trials have, from the same ranges, as points in the unit cube, [n, d]."""
    shared = dict(trials[0].distributions) if trials else {}
    for trial in trials:
        shared = {name: known for name, known in shared.items() if trial.distributions.get(name) == known}
    shared = {name: known for name, known in sorted(shared.items()) if not known.single()}
    if not shared:
        return np.zeros((len(trials), 0))
    cube = UnitCube(shared)
    return np.array([cube.encode({name: trial.params[name] for name in shared}) for trial in trials])


def project_curves(curves: Sequence[TrialCurve], points: np.ndarray) -> np.ndarray:
    """Return the value at 100% of the run that is expected of each curve, smaller is better, in bounds.

    A partial curve is expected to gain, up to each share at which others stopped, what those that went on have gained,
    given its params and its value: runs with small learning rates gain later (https://arxiv.org/abs/1803.02021). Bad
    values, and those of diverged trials, are clipped.

    Args:
        curves: Of n trials; empty ones have diverged.
        points: Their params in the unit cube, [n, d].
    """
    usable = [index for index, curve in enumerate(curves) if curve.percents]
    if not usable:
        return np.zeros(len(curves))  # nothing can be told apart
    known, points = [curves[index] for index in usable], points[usable]
    ends = np.array([curve.end for curve in known])
    projected = np.array([curve.values[-1] for curve in known])
    gains = np.zeros(len(known))
    for start, end in pairwise(sorted({*ends, FULL_RUN})):
        gains = _expect_gains(known, points, start, end, default=gains)
        projected[ends <= start] -= gains[ends <= start]
    best, usual = projected.min(), np.quantile(projected, CLIP_LEVEL)
    costs = np.full(len(curves), math.inf)
    costs[usable] = projected
    return np.minimum(costs, best + CLIP * max(usual - best, 0.0))


def _expect_gains(
    curves: Sequence[TrialCurve], points: np.ndarray, start: int, end: int, default: np.ndarray
) -> np.ndarray:
    """Return the gain of each curve between two percents of the run, from those that have reached the second one."""
    before = np.array([curve.value_at(start) for curve in curves], float)  # NaN where there is none
    after = np.array([curve.value_at(end) if curve.end >= end else math.nan for curve in curves], float)
    is_known = np.isfinite(before - after)
    gains = (before - after)[is_known]
    if len(gains) < MIN_GAINS:
        return default
    if len(gains) < MIN_MODEL_GAINS:
        return np.full(len(curves), np.median(gains))
    deviations = (before - np.median(before[is_known])) / (before[is_known].std() or 1.0)
    features = np.c_[points, np.nan_to_num(deviations).clip(-MAX_DEVIATION, MAX_DEVIATION)]
    # An objective may be worse than the values before it. No trial is expected to gain more than any other has gained;
    # otherwise bad configurations, far from those that went on, would seem the best.
    return _predict_gains(features, is_known, gains).clip(min(gains.min(), 0.0), max(gains.max(), 0.0))


def _predict_gains(features: np.ndarray, is_known: np.ndarray, gains: np.ndarray) -> np.ndarray:
    """Return the gains [n] that a linear model of `features` [n, d] expects, fitted to the known ones.

    Its weights are shrunk as far as the known gains suggest.
    """
    from sklearn.linear_model import BayesianRidge  # takes a second to import

    middle, high = np.quantile(gains, (0.5, OUTLIER_LEVEL))
    known = features[is_known]
    scaled = (features - known.mean(0)) / (known.std(0) + MIN_SPREAD)
    model = BayesianRidge().fit(scaled[is_known], np.minimum(gains, 2 * high - middle))
    return np.asarray(model.predict(scaled))
