"""Parameter importances of a study."""

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from harness.sweep.optuna_internals import get_all_trials, hide_trials
from harness.sweep.study.trial_attrs import has_params_in_range, read_trial_result

MIN_TRIALS = 8
"""Completed trials from which importances are computed."""
MIN_TRIALS_FOR_IDLE = 12
"""Completed trials from which a parameter may be called idle."""
IDLE_IMPORTANCE = 0.05


def compute_importances(study: Study) -> dict[str, float]:
    """Return the PED-ANOVA importances (arXiv:2304.10255) for the first objective, largest first.

    Keys are Optuna's parameter names. Empty with fewer than `MIN_TRIALS` completed trials.
    """
    return _evaluate_importances(study) if len(_completed_trials(study)) >= MIN_TRIALS else {}


def find_idle_params(study: Study, importances: Mapping[str, float]) -> list[str]:
    """Return the parameters that PED-ANOVA and fANOVA both find idle.

    PED-ANOVA alone only sees what distinguishes the best tenth: from a dozen trials it calls one in five parameters
    idle that do matter. Conditional parameters have fewer trials and are never called idle.
    """
    trials = _completed_trials(study)
    unconditional = [name for name in importances if all(name in trial.params for trial in trials)]
    candidates = [name for name in unconditional if importances[name] < IDLE_IMPORTANCE]
    if not candidates or len(trials) < MIN_TRIALS_FOR_IDLE:
        return []
    fanova = optuna.importance.FanovaImportanceEvaluator(n_trees=16, seed=0)
    second_opinion = _evaluate_importances(study, evaluator=fanova, params=unconditional)
    return [name for name in candidates if second_opinion.get(name, 1.0) < IDLE_IMPORTANCE]


def _completed_trials(study: Study) -> list[FrozenTrial]:
    """Return the completed trials with parameters; a baseline outside the search space has none."""
    trials = _hide_unmeasured_trials(study).get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return [trial for trial in trials if trial.params]


def _hide_unmeasured_trials(study: Study) -> Study:
    """Return a view of the study without trials of other programs and those whose params are out of range."""
    trials = get_all_trials(study)
    return hide_trials(study, {t.number for t in trials if not read_trial_result(t) or not has_params_in_range(t)})


def _evaluate_importances(study: Study, **options: Any) -> dict[str, float]:
    if len(study.directions) > 1:
        options["target"] = lambda trial: trial.values[0]
    with warnings.catch_warnings(action="ignore"):
        try:
            view = _hide_unmeasured_trials(study)
            return {k: float(v) for k, v in optuna.importance.get_param_importances(view, **options).items()}
        except (ValueError, RuntimeError, ArithmeticError):  # for example if all trials are equal
            return {}
