"""User attributes that the harness sets on Optuna's studies and trials, and what follows from them.

Other programs may add trials to a study, so readers must not expect an attribute, nor that it has our form.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.trial import FrozenTrial, Trial, TrialState

from harness.core.events import Status
from harness.sweep.optuna_internals import is_in_distribution
from harness.sweep.space.search_space import config_key
from harness.sweep.study.rungs import FULL_RUN, to_rung

# Of a study.
STUDY_SPEC = "study_spec"  # what makes its trials comparable
BUDGET = "budget"
STOP_REQUESTED = "stop_requested"
SWEEP_ID = "sweep_id"  # identifies the MLflow parent run
WARM_START = "warm_start"  # {"given": the option, "source": the study or file}, if it began with an earlier study

# Of a trial.
WORKER = "worker"  # host, pid and start time of the process that runs it
RESULT = "result"  # a TrialResult as a dict
RETRY_OF = "retry_of"  # number of the trial that it repeats; a retry does not count towards n_trials
RETRIES = "retries"  # how many workers died running it
BASELINE = "baseline"
FIXED_VALUES = (
    "fixed_values"  # {key: value} of a trial whose values are not suggested, such as a current config out of range
)
SEED_RUN = "seed_run"  # {"config": name, "seed": number} of a configuration that is run with several seeds
LAST_STEP = "last_step"  # of a completed trial whose program reports steps
TARGET = "target"  # the rung, in percent of a run, to which the trial runs before it is paused, or 100
PRIOR = "prior_origin"
"""Origin of the values of one of the first trials of a study with a warm start: {"source": name, "trial": number}
of the earlier trial, or {"source": path, "lr_band": [low, high]}; empty if the sampler proposes it."""
PROMOTIONS = "promotions"  # each time it was promoted: {"start": rung, "target": rung, "reason": why}
OWN_TRIAL_ATTRS = frozenset(
    {WORKER, RESULT, RETRY_OF, RETRIES, BASELINE, FIXED_VALUES, SEED_RUN, LAST_STEP, TARGET, PROMOTIONS, PRIOR}
)
REPEATED_ATTRS = (BASELINE, FIXED_VALUES, SEED_RUN, PRIOR)  # of a trial, which its retries have too


@dataclass(frozen=True)
class TrialResult:
    """Result of a trial's run so far, or at its end.

    `values` are those of the study's objectives, if it has them. `tokens`, `seconds` and `fraction_done`, the part of
    the run that was done from 0 to 1, include what was done before a pause. `device` and `threads` are what it ran on,
    and `folder` is the name of its run folder. `checkpoint` is where a paused or interrupted run can be continued from.
    `ends_sweep` says that other trials would fail for the same reason, unless one of the study has a result.
    """

    status: Status
    reason: str = ""
    values: tuple[float, ...] = ()
    best_step: int | None = None
    tokens: int = 0
    seconds: float = 0.0
    fraction_done: float = 0.0
    folder: str = ""
    threads: int = 0
    device: str = ""
    ends_sweep: bool = False
    checkpoint: str = ""


def read_trial_worker(trial: Trial | FrozenTrial) -> Mapping[str, Any] | None:
    """Return the process that this program ran the trial in; None for a trial that it did not start."""
    worker = trial.user_attrs.get(WORKER)
    return worker if isinstance(worker, dict) and {"host", "pid", "started_at"} <= worker.keys() else None


def read_trial_result(trial: Trial | FrozenTrial) -> Mapping[str, Any]:
    """Return the result that this program recorded; empty if it did not end the trial."""
    result = trial.user_attrs.get(RESULT)
    return result if isinstance(result, dict) and "status" in result else {}


def has_result(trial: FrozenTrial) -> bool:
    """Return whether a trial has a value of the objective, if only that of a part of its run."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED)


def is_paused(trial: FrozenTrial) -> bool:
    """Return whether a trial waits at the rung that was its target."""
    return trial.state == TrialState.WAITING and has_checkpoint(trial) and _has_reached_target(trial)


def is_cut_off(trial: FrozenTrial) -> bool:
    """Return whether a trial waits before its target: it was interrupted, or promoted and not yet started."""
    return trial.state == TrialState.WAITING and has_checkpoint(trial) and not _has_reached_target(trial)


def has_checkpoint(trial: Trial | FrozenTrial) -> bool:
    """Return whether a trial has done a part of its run before, from which it can be continued."""
    return bool(read_trial_result(trial).get("checkpoint"))


def _has_reached_target(trial: FrozenTrial) -> bool:
    """Return whether a trial has reached its target, a rung, and has a value there. No trial pauses at its end."""
    target = trial.user_attrs.get(TARGET, FULL_RUN)
    reached = to_rung(read_trial_result(trial).get("fraction_done", 0.0))
    return target < FULL_RUN and min(reached, trial.last_step or 0) >= target


def is_own_trial(trial: FrozenTrial) -> bool:
    """Return whether this program runs the trial: it has started it, or will, as it is queued."""
    return trial.state == TrialState.WAITING or read_trial_worker(trial) is not None


def has_params_in_range(trial: FrozenTrial) -> bool:
    """Return whether all params are in their ranges. Optuna warns of others that were enqueued, and runs them."""
    return all(is_in_distribution(dist, trial.params[name]) for name, dist in trial.distributions.items())


def trial_values(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the values that a trial sets, by config key."""
    out_of_space = trial.user_attrs.get(FIXED_VALUES, {})
    return {**out_of_space, **{config_key(name): value for name, value in trial.params.items()}}


def trial_position(trials: Sequence[FrozenTrial], number: int) -> int:
    """Return a trial's index among those that are not retries; a retry has the index of the trial it repeats."""
    number = trials[number].user_attrs.get(RETRY_OF, number)
    return sum(RETRY_OF not in trial.user_attrs for trial in trials[:number])
