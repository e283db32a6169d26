"""Create or open a study, and enqueue the trials that run before the sampler proposes any."""

import uuid
from dataclasses import asdict

import optuna

from harness.core.errors import ConfigError
from harness.sweep.request import SweepRequest
from harness.sweep.space.validation import baseline_values
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, OUT_OF_SPACE_VALUES, STUDY_SPEC, SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue


def check_existing_study(request: SweepRequest) -> bool:
    """Return whether the study exists, without creating it.

    Raises:
        ConfigError: If the storage cannot be opened, or the study searches something else.
    """
    if request.options.storage is None and not request.folder.exists():
        return False
    storage = open_storage(request.options.storage, request.folder)
    if request.study_name not in optuna.get_all_study_names(storage):
        return False
    _check_unchanged(request, optuna.load_study(study_name=request.study_name, storage=storage))
    return True


def open_study(request: SweepRequest) -> TrialQueue:
    """Create or open the study.

    Raises:
        ConfigError: If the study exists with another search space, objective or config; the message lists the changes.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=request.study_name,
        storage=open_storage(request.options.storage, request.folder),
        sampler=request.spec.make_sampler(),
        pruner=request.spec.make_pruner(),
        directions=["minimize"] * len(request.options.objectives),
        load_if_exists=True,
    )
    queue = TrialQueue(study, request.space, request.folder)
    with queue.hold_lock():
        _check_unchanged(request, study)
        if STUDY_SPEC not in study.user_attrs:
            study.set_user_attr(SWEEP_ID, uuid.uuid4().hex)
            _enqueue_initial_trials(request, study)
        study.set_user_attr(STUDY_SPEC, asdict(request.spec))  # last: until then setup may have been cut off
    return queue


def _check_unchanged(request: SweepRequest, study: optuna.Study) -> None:
    stored = study.user_attrs.get(STUDY_SPEC)
    changes = request.spec.describe_changes(StudySpec(**stored)) if stored else []
    if changes:
        raise ConfigError(
            f"study {request.study_name} exists with other settings:\n"
            + "\n".join(changes)
            + "\nstart a new study with sweep.study=NAME"
        )


def _enqueue_initial_trials(request: SweepRequest, study: optuna.Study) -> None:
    """Enqueue all points of a grid, or else the current config and the points of `sweep.enqueue`.

    Trials that a killed process already enqueued are kept.
    """
    space = request.space
    if request.spec.is_grid:
        for point in space.list_grid_points():
            study.enqueue_trial(space.to_trial_params(point), skip_if_exists=True)
        return
    points = [space.to_trial_params(point) for point in request.options.enqueue]  # raises before any is enqueued
    if request.options.baseline and not any(BASELINE in trial.user_attrs for trial in study.trials):
        values, out_of_range = baseline_values(space, request.cfg)
        if out_of_range:
            print(
                f"note: the current config is outside the search space ({', '.join(out_of_range)}); "
                "it still runs as trial 0, but the sampler does not learn from it"
            )
            study.enqueue_trial({}, user_attrs={BASELINE: True, OUT_OF_SPACE_VALUES: values})
        else:
            study.enqueue_trial(space.to_trial_params(values), user_attrs={BASELINE: True})
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
