"""Which parameters mattered, as far as the trials of a study show."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

MIN_TRIALS, MIN_TRIALS_FOR_IDLE, IDLE_IMPORTANCE = 8, 12, 0.05
"""Completed trials to weigh parameters by, to call one idle, and the importance below which it may be."""


def compute_importances(study: Study) -> dict[str, float]:
    """Shares of the first objective's variation by Optuna's parameter names, largest first (PED-ANOVA,
    arXiv:2304.10255); empty where too few trials completed to tell."""
    if len(_completed_trials(study)) < MIN_TRIALS:
        return {}
    return _evaluate_importances(study)


def find_idle_params(study: Study, weights: Mapping[str, float]) -> list[str]:
    """The parameters that two measures find idle: PED-ANOVA sees only what sets the best tenth apart, and from a dozen
    trials calls one in five of those idle that matter some. Conditional ones, of fewer trials, are never called so."""
    trials = _completed_trials(study)
    everywhere = [name for name in weights if all(name in trial.params for trial in trials)]
    light = [name for name in everywhere if weights[name] < IDLE_IMPORTANCE]
    if not light or len(trials) < MIN_TRIALS_FOR_IDLE:
        return []
    fanova = optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=0)
    second = _evaluate_importances(study, evaluator=fanova, params=everywhere)
    return [name for name in light if second.get(name, 1.0) < IDLE_IMPORTANCE]


def _completed_trials(study: Study) -> list[FrozenTrial]:
    """Completed trials that have parameters, which a baseline outside the space has not."""
    return [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if trial.params]


def _evaluate_importances(study: Study, **options: Any) -> dict[str, float]:
    if len(study.directions) > 1:
        options["target"] = lambda trial: trial.values[0]
    with warnings.catch_warnings(action="ignore"):
        try:
            return {k: float(v) for k, v in optuna.importance.get_param_importances(study, **options).items()}
        except (ValueError, RuntimeError, ArithmeticError):  # as where all trials are alike
            return {}
