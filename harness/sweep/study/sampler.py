"""A sampler that proposes the same for a trial whoever asks, and however often the study was resumed."""

from collections.abc import Callable, Container
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.study.trial_attrs import OUT_OF_SPACE_VALUES, trial_position


class ReproducibleSampler(BaseSampler):
    """Makes the sampler anew for every trial, from the seed and the trial's place in the study: what the samplers of
    Optuna carry from ask to ask, a generator, is lost when a process ends, and one seeded again repeats its start."""

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make, self._seed = make, seed
        self._sampler = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)  # Hyperband shows a bracket's alone
        index = trial_position(trials, trial.number)
        self._sampler = self._make(int(np.random.SeedSequence([self._seed, index]).generate_state(1)[0]))
        self._sampler.before_trial(_FilteredStudy(study), trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self._sampler.infer_relative_search_space(_FilteredStudy(study), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(_FilteredStudy(study), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(_FilteredStudy(study), trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: list[float] | None) -> None:
        self._sampler.after_trial(_FilteredStudy(study), trial, state, values)


class _FilteredStudy:
    """A study without the trials that lie outside its space, from which a sampler would learn what it cannot use. It
    may itself be seen through a pruner, as by Hyperband in brackets."""

    def __init__(self, study: Study) -> None:
        self._study = study

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    @property
    def trials(self) -> list[FrozenTrial]:
        return self.get_trials()

    def get_trials(self, deepcopy: bool = True, states: Container[TrialState] | None = None) -> list[FrozenTrial]:
        return self._get_trials(deepcopy, states)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        found = self._study._get_trials(deepcopy, states, use_cache)
        return [trial for trial in found if OUT_OF_SPACE_VALUES not in trial.user_attrs]
