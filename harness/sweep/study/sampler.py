"""A sampler whose proposals depend only on the seed and the study, not on the process that asks."""

import math
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

import numpy as np
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.optuna_internals import get_all_trials, get_study_attrs, hide_trials
from harness.sweep.study.trial_attrs import (
    FIXED_VALUES,
    WARM_START,
    has_checkpoint,
    has_params_in_range,
    is_own_trial,
    trial_position,
)


class ReproducibleSampler(BaseSampler):
    """Sampler that is rebuilt for every trial, from the seed and the trial's position in the study.

    Optuna's samplers hold a random generator, which is lost when a process ends. Seeding it again would repeat the
    first proposals. The source of a warm start is a part of the seed, so that proposals do not repeat those of the
    earlier study. Trials that it could not use are hidden from it. Numbers are rounded to `digits`, unless it is None.
    """

    def __init__(self, make_sampler: Callable[[int], BaseSampler], seed: int, digits: int | None = None) -> None:
        self._make_sampler, self._seed, self._digits = make_sampler, seed, digits
        self._sampler = make_sampler(seed)
        self._hidden: set[int] = set()

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        if has_checkpoint(trial):
            return
        trials = get_all_trials(study)
        position, self._hidden = trial_position(trials, trial.number), find_unusable_trials(trials)
        began = get_study_attrs(study).get(WARM_START)
        entropy = [self._seed, position, *([crc32(str(began["source"]).encode())] if began else [])]
        self._sampler = self._make_sampler(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        self._sampler.before_trial(hide_trials(study, self._hidden), trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        if has_checkpoint(trial):  # it has its params
            return {}
        return self._sampler.infer_relative_search_space(hide_trials(study, self._hidden), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if has_checkpoint(trial):
            return {}
        values = self._sampler.sample_relative(hide_trials(study, self._hidden), trial, search_space)
        return {name: self._round(value, search_space[name]) for name, value in values.items()}

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        study = hide_trials(study, self._hidden)
        value = self._sampler.sample_independent(study, trial, param_name, param_distribution)
        return self._round(value, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self._sampler.after_trial(hide_trials(study, self._hidden), trial, state, values)

    def _round(self, value: Any, dist: BaseDistribution) -> Any:
        if self._digits is None or not isinstance(dist, FloatDistribution) or dist.step is not None:
            return value
        return round_in_range(value, dist, self._digits)


def round_in_range(value: float, dist: FloatDistribution, digits: int) -> float:
    """Return a value of a range with so many digits of its own, or of the width of the range if that is less."""
    scale = min(abs(value) or math.inf, dist.high - dist.low or math.inf)
    if scale == math.inf:
        return value
    return min(max(round(value, digits - 1 - math.floor(math.log10(scale))), dist.low), dist.high)


def find_unusable_trials(trials: Sequence[FrozenTrial]) -> set[int]:
    """Return the numbers of the trials that a sampler cannot use: out of the search space, or of another space.

    Trials of other programs are used if they have the params and ranges of a trial of ours.
    """
    own = [trial for trial in trials if is_own_trial(trial)]
    spaces: list[dict[str, BaseDistribution]] = []  # distinct: one, or one for each condition
    for trial in own if len(own) < len(trials) else ():
        if trial.distributions and trial.distributions not in spaces:
            spaces.append(trial.distributions)
    return {
        trial.number
        for trial in trials
        if FIXED_VALUES in trial.user_attrs
        or not has_params_in_range(trial)
        or not (is_own_trial(trial) or trial.distributions in spaces)
    }
