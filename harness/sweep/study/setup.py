"""A study, made or found, with what is to be run before anything is sampled."""

import uuid
from dataclasses import asdict

import optuna

from harness.config.errors import ConfigError
from harness.sweep.request import SweepRequest
from harness.sweep.space.validation import baseline_values
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, OUT_OF_SPACE_VALUES, STUDY_SPEC, SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue


def check_existing_study(request: SweepRequest) -> bool:
    """Whether there is such a study; ConfigError where it cannot be kept, or was made for something else. It is told
    before a base is trained, and no study is made."""
    if request.options.storage is None and not request.folder.exists():
        return False
    storage = open_storage(request.options.storage, request.folder)
    if request.study_name not in optuna.get_all_study_names(storage):
        return False
    _check_unchanged(request, optuna.load_study(study_name=request.study_name, storage=storage))
    return True


def _check_unchanged(request: SweepRequest, study: optuna.Study) -> None:
    known = study.user_attrs.get(STUDY_SPEC)
    changes = request.spec.describe_changes(StudySpec(**known)) if known else []
    if changes:
        told = "\n".join(changes)
        raise ConfigError(
            f"study {request.study_name} was made for something else:\n{told}\na new one: sweep.study=NAME"
        )


def open_study(request: SweepRequest) -> TrialQueue:
    """The study, made or found; ConfigError, with the difference, where it was made for another space or objective."""
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
        study.set_user_attr(STUDY_SPEC, asdict(request.spec))
    return queue


def _enqueue_initial_trials(request: SweepRequest, study: optuna.Study) -> None:
    """What is run before anything is sampled: a grid's combinations, or the present config and the known-good points.
    What a killed process has enqueued already is left as it is."""
    if request.spec.is_grid:
        for point in request.space.list_grid_points():
            study.enqueue_trial(request.space.to_trial_params(point), skip_if_exists=True)
        return
    points = [
        request.space.to_trial_params(point) for point in request.options.enqueue
    ]  # all checked before one is enqueued
    if request.options.baseline and not any(BASELINE in trial.user_attrs for trial in study.trials):
        values, outside = baseline_values(request.space, request.cfg)
        if outside:
            print(f"note: the present config lies outside the space ({', '.join(outside)}); it is run all the same, as "
                  "trial 0, and the sampler does not learn from it")  # fmt: skip
            study.enqueue_trial({}, user_attrs={BASELINE: True, OUT_OF_SPACE_VALUES: values})
        else:
            study.enqueue_trial(request.space.to_trial_params(values), user_attrs={BASELINE: True})
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
