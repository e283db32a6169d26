"""A sampler that proposes the points of a grid in order, each once."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.optuna_internals import get_all_trials, get_enqueued_params
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.distinct_sampler import Identity, identify_point, known_params
from harness.sweep.study.trial_attrs import has_checkpoint, is_own_trial


class GridOrderSampler(BaseSampler):
    """Wrapper of a sampler that proposes the first point of the grid that no trial of this program has.

    The wrapped sampler proposes what the grid does not have: the keys that a user's function adds, and those that an
    enqueued trial leaves out. Optuna's GridSampler draws the points in random order, and some of them twice if several
    processes ask at once.
    """

    def __init__(self, sampler: BaseSampler, space: SearchSpace) -> None:
        self._sampler, self._space = sampler, space
        self._point: dict[str, Any] = {}

    @cached_property
    def _points(self) -> dict[Identity, dict[str, Any]]:
        points = map(self._space.to_trial_params, self._space.list_grid_points())
        return {identify_point(point): point for point in points}

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._point = {}
        if not get_enqueued_params(trial) and not has_checkpoint(trial):
            others = [other for other in get_all_trials(study) if other.number != trial.number and is_own_trial(other)]
            tried = {self._identify_grid_point(known_params(other)) for other in others}
            self._point = next((point for identity, point in self._points.items() if identity not in tried), {})
        return {name: self._space.ranges[name] for name in self._point}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._point

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _identify_grid_point(self, params: dict[str, Any]) -> Identity:
        return identify_point({name: value for name, value in params.items() if name in self._space.ranges})
