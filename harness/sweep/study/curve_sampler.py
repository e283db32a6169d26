"""A sampler that learns from the values of paused and pruned trials, projected to the end of their runs."""

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.optuna_internals import UnitCube, replace_trials
from harness.sweep.study.gaussian_process import GaussianProcess, log_expected_improvement
from harness.sweep.study.projection import project_trials

MAX_MODEL_TRIALS = 120  # the time of a proposal grows with the cube of their number
N_FINALISTS = 20  # candidates that are compared again after rounding
N_RANDOM, N_LOCAL, N_CENTRES = 300, 300, 5  # candidates; the local ones are near so many of the best trials
COPY_DISTANCE = 1e-6  # within which two points are the same, in each column of the unit cube
LOCAL_STEP, CHANGED_SHARE = 0.12, 0.6  # standard deviation of a local change, and the share of columns that change


class CurveSampler(BaseSampler):
    """Gaussian process over projected values, after some random trials.

    A trial that was paused or pruned, or is running, counts with the value that is expected at the end of its run. The
    candidate of the largest expected improvement is proposed. In spaces where trials have different params, and with
    several objectives, TPE proposes instead, from the same values.
    """

    def __init__(self, seed: int | None = None, n_startup_trials: int = 8) -> None:
        self._rng, self._n_startup = np.random.default_rng(seed), n_startup_trials
        self._tpe = TPESampler(
            seed=seed, n_startup_trials=n_startup_trials, multivariate=True, group=True, constant_liar=True
        )
        self._known: list[FrozenTrial] = []  # each with its projected value
        self._awaited: list[FrozenTrial] = []  # running without any value so far

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if len(study.directions) == 1:
            self._read_trials(study, trial.number)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if self._needs_tpe(study):
            return self._tpe.infer_relative_search_space(self._project_study(study), trial)
        if len(self._known) < self._n_startup:
            return {}
        ranges = self._known[0].distributions
        return {name: ranges[name] for name in sorted(ranges) if not ranges[name].single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._needs_tpe(study):
            return self._tpe.sample_relative(self._project_study(study), trial, search_space)
        if not search_space:
            return {}
        cube = UnitCube(search_space)
        points = np.array([cube.encode(known.params) for known in self._known])
        awaited = [cube.encode(one.params) for one in self._awaited if search_space.keys() <= one.params.keys()]
        costs = _sign(study) * np.array([known.value for known in self._known])
        return cube.decode(propose_point(cube, points, costs, awaited, self._rng))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._tpe.sample_independent(self._project_study(study), trial, param_name, param_distribution)

    def _read_trials(self, study: Study, own_number: int) -> None:
        """Read the trials that have a value, and those that are awaited."""
        trials = [one for one in study.get_trials(deepcopy=False) if one.number != own_number and one.params]
        costs = project_trials(trials, study.direction)
        self._known = [_complete_trial(one, _sign(study) * costs[one.number]) for one in trials if one.number in costs]
        self._awaited = [one for one in trials if one.state == TrialState.RUNNING and one.number not in costs]

    def _needs_tpe(self, study: Study) -> bool:
        has_other_params = any(trial.distributions != self._known[0].distributions for trial in self._known)
        return len(study.directions) > 1 or has_other_params

    def _project_study(self, study: Study) -> Study:
        return study if len(study.directions) > 1 else replace_trials(study, [*self._known, *self._awaited])


def propose_point(
    cube: UnitCube,
    points: np.ndarray,
    costs: np.ndarray,
    awaited: Sequence[np.ndarray],
    rng: np.random.Generator,
) -> np.ndarray:
    """Return the candidate of the largest expected improvement on the best predicted cost at a known point.

    Args:
        cube: The search space.
        points: [n, d] in the unit cube.
        costs: [n], smaller is better.
        awaited: Points whose costs are not known yet.
        rng: Source of the candidates.
    """
    order = np.argsort(costs, kind="stable")
    if len(order) > MAX_MODEL_TRIALS:  # the best ones, and some of the others
        n_best = 2 * MAX_MODEL_TRIALS // 3
        order = np.r_[order[:n_best], rng.choice(order[n_best:], MAX_MODEL_TRIALS - n_best, replace=False)]
    points, costs = points[order], costs[order]
    spread = costs.std()
    process = GaussianProcess(points, (costs - costs.mean()) / (spread if spread > 0 else 1.0))
    threshold = process.predict(points)[0].min()
    if awaited:
        process.add_points(np.array(awaited))
    candidates = draw_candidates(points[:N_CENTRES], cube.choice_columns, rng)
    improvements = log_expected_improvement(*process.predict(candidates), threshold)
    finalists = candidates[np.argsort(-improvements, kind="stable")[:N_FINALISTS]]
    finalists = np.array([cube.encode(cube.decode(one)) for one in finalists])  # integers are rounded
    finalists = drop_known(finalists, [*points, *awaited])
    return finalists[np.argmax(log_expected_improvement(*process.predict(finalists), threshold))]


def drop_known(finalists: np.ndarray, known: Sequence[np.ndarray]) -> np.ndarray:
    """Return the finalists that are no copies of known points, or all if there is no other; [n, d] in the unit cube."""
    distances = np.abs(finalists[:, None] - np.array(known)[None]).max(axis=2).min(axis=1)
    is_new = distances > COPY_DISTANCE
    return finalists[is_new] if is_new.any() else finalists


def draw_candidates(centres: np.ndarray, choice_columns: Sequence[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Return random points, and points near the centres."""
    n_columns = centres.shape[1]
    random = _draw_choices(rng.random((N_RANDOM, n_columns)), choice_columns)
    origins = np.resize(centres, (N_LOCAL, n_columns))
    is_changed = rng.random(origins.shape) < CHANGED_SHARE
    local = np.clip(origins + LOCAL_STEP * is_changed * rng.standard_normal(origins.shape), 0.0, 1.0)
    others = _draw_choices(rng.random((N_LOCAL, n_columns)), choice_columns)
    for columns in choice_columns:
        is_kept = rng.random(len(local)) < 1 - CHANGED_SHARE / 2
        local[:, columns] = np.where(is_kept[:, None], origins[:, columns], others[:, columns])
    return np.concatenate([random, local])


def _draw_choices(points: np.ndarray, choice_columns: Sequence[np.ndarray]) -> np.ndarray:
    """Return points with 1 in the largest column of each choice, and 0 in its other columns."""
    for columns in choice_columns:
        points[:, columns] = np.eye(len(columns))[points[:, columns].argmax(1)]
    return points


def _complete_trial(trial: FrozenTrial, value: float) -> FrozenTrial:
    """Return a copy of a trial that is complete with a value."""
    completed = copy.copy(trial)
    completed.state, completed.value = TrialState.COMPLETE, value
    return completed


def _sign(study: Study) -> float:
    return -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
