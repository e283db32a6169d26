"""A sampler that proposes no point of a finite search space twice."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.hydra_internals import Range
from harness.sweep.optuna_internals import get_all_trials, get_enqueued_params, is_in_distribution
from harness.sweep.space.search_space import MAX_GRID_POINTS, SearchSpace, count_values, value_at
from harness.sweep.study.trial_attrs import FIXED_VALUES, has_checkpoint, is_own_trial, trial_position

MAX_DRAWS = 100
"""Random points that are drawn in a space that is too large to list; nearly every one is new."""

Identity = frozenset[tuple[str, Any]]


class DistinctSampler(BaseSampler):
    """Wrapper of a sampler that replaces a proposal that was already run by a random point that was not.

    Values that a trial was enqueued with stay, so a trial that was enqueued with all of them, such as a retry, is never
    replaced. The replacement depends only on the seed and the trial's position in the study. As long as nothing is
    replaced, the proposals are those of the wrapped sampler.
    """

    def __init__(self, sampler: BaseSampler, space: SearchSpace, seed: int) -> None:
        self._sampler, self._space, self._seed = sampler, space, seed
        self._point: _Point | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        self._sampler.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Choose the whole point here, so that it is compared before Optuna stores any of its values."""
        self._point = None
        search_space = self._sampler.infer_relative_search_space(study, trial)
        if FIXED_VALUES in trial.user_attrs or has_checkpoint(trial):
            return search_space
        relative, enqueued = self._sampler.sample_relative(study, trial, search_space), get_enqueued_params(trial)

        def propose(name: str, dist: Range) -> Any:
            if name in enqueued:
                return enqueued[name]
            is_relative = name in relative and is_in_distribution(dist, relative[name])
            return relative[name] if is_relative else self._sampler.sample_independent(study, trial, name, dist)

        self._point = _Point(self._space, propose)
        trials = get_all_trials(study)
        tried = find_tried_points(other for other in trials if other.number != trial.number)
        if self._point.identity in tried:
            rng = np.random.default_rng([self._seed, trial_position(trials, trial.number)])
            self._point = self._choose_untried(tried, enqueued, rng) or self._point
        return self._point.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if self._point is None:
            return self._sampler.sample_relative(study, trial, search_space)
        return self._point.params

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(study, trial, state, values)

    def _choose_untried(
        self, tried: set[Identity], enqueued: Mapping[str, Any], rng: np.random.Generator
    ) -> "_Point | None":
        """Return a random point with the enqueued values that was not tried, None if there is none."""

        def draw(name: str, dist: Range) -> Any:
            return enqueued[name] if name in enqueued else draw_value(dist, rng)

        if (self._space.count_points() or 0) > MAX_GRID_POINTS:
            draws = (_Point(self._space, draw) for _ in range(MAX_DRAWS))
            return next((point for point in draws if point.identity not in tried), None)
        points = [self._space.to_trial_params(values) for values in self._space.iterate_points()]
        kept = identify_point(dict(enqueued))
        identities = [identify_point(params) for params in points]
        untried = [
            params
            for params, identity in zip(points, identities, strict=True)
            if kept <= identity and identity not in tried
        ]
        if not untried:
            return None
        params = untried[rng.integers(len(untried))]
        return _Point(self._space, lambda name, _: params[name])


class _Point:
    """A point, with the values that `choose` returns. It takes the place of a trial in `SearchSpace.suggest_values`."""

    def __init__(self, space: SearchSpace, choose: Callable[[str, Range], Any]) -> None:
        self.params: dict[str, Any] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self._choose = choose
        space.suggest_values(self)  # type: ignore[arg-type]  # which only calls `_suggest`

    @property
    def identity(self) -> Identity:
        return identify_point(self.params)

    def _suggest(self, name: str, dist: Range) -> Any:
        self.params[name], self.distributions[name] = self._choose(name, dist), dist
        return self.params[name]


def find_tried_points(trials: Iterable[FrozenTrial]) -> set[Identity]:
    """Return the points that the trials of this program have run, run or are queued with, however they ended."""
    return {identify_point(known_params(trial)) for trial in trials if is_own_trial(trial)}


def known_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the params that a trial has, or was enqueued with and will have."""
    return {**get_enqueued_params(trial), **trial.params}


def identify_point(params: dict[str, Any]) -> Identity:
    """Return what is equal for equal params, without differences from rounding."""
    return frozenset((name, f"{value:.12g}" if isinstance(value, float) else value) for name, value in params.items())


def draw_value(dist: Range, rng: np.random.Generator) -> Any:
    """Return a random value of a range that is not continuous."""
    size = count_values(dist)
    assert size is not None
    return value_at(dist, int(rng.integers(size)))
