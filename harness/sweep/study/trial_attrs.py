"""User attributes that the harness sets on Optuna's studies and trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any

from optuna.trial import FrozenTrial, Trial

from harness.core.events import Status
from harness.sweep.space.search_space import config_key

# Of a study.
STUDY_SPEC = "study_spec"  # what makes its trials comparable
BUDGET = "budget"
STOP_REQUESTED = "stop_requested"
SWEEP_ID = "sweep_id"  # identifies the MLflow parent run

# Of a trial.
WORKER = "worker"  # host, pid and start time of the process that runs it
RESULT = "result"  # a TrialResult as a dict
RETRY_OF = "retry_of"  # number of the trial that it repeats; a retry does not count towards n_trials
RETRIES = "retries"  # how many workers died running it
BASELINE = "baseline"
OUT_OF_SPACE_VALUES = "out_of_space_values"  # {key: value} of a current config out of range, which has no params


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial's run.

    `fraction_done` is the part of the run's steps that were
    taken, from 0 to 1; `device` and `threads` are those it ran on, and `folder` is the name of its run folder.
    """

    status: Status
    reason: str = ""
    best_val_loss: float = inf
    best_step: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    fraction_done: float = 0.0
    trainable_parameters: int = 0
    folder: str = ""
    threads: int = 0
    device: str = ""


def trial_values(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the values that a trial sets, by config key."""
    out_of_space = trial.user_attrs.get(OUT_OF_SPACE_VALUES, {})
    return {**out_of_space, **{config_key(name): value for name, value in trial.params.items()}}


def trial_position(trials: Sequence[FrozenTrial], number: int) -> int:
    """Return a trial's index among those that are not retries; a retry has the index of the trial it repeats."""
    number = trials[number].user_attrs.get(RETRY_OF, number)
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])
