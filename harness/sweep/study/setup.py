"""A study, made or found, with what is to be run before anything is sampled."""

import uuid
from dataclasses import asdict

import optuna

from harness.config.errors import ConfigError
from harness.sweep.request import Asked
from harness.sweep.space.validation import present_values
from harness.sweep.study.spec import Plan
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, IS_OUTSIDE, PLAN, SWEEP_ID
from harness.sweep.study.trial_queue import Queue


def check_study(asked: Asked) -> bool:
    """Whether there is such a study; ConfigError where it cannot be kept, or was made for something else. It is told
    before a base is trained, and no study is made."""
    if asked.options.storage is None and not asked.folder.exists():
        return False
    storage = open_storage(asked.options.storage, asked.folder)
    if asked.name not in optuna.get_all_study_names(storage):
        return False
    _refuse_changes(asked, optuna.load_study(study_name=asked.name, storage=storage))
    return True


def _refuse_changes(asked: Asked, study: optuna.Study) -> None:
    known = study.user_attrs.get(PLAN)
    changes = asked.plan.difference(Plan(**known)) if known else []
    if changes:
        told = "\n".join(changes)
        raise ConfigError(f"study {asked.name} was made for something else:\n{told}\na new one: sweep.study=NAME")


def open_study(asked: Asked) -> Queue:
    """The study, made or found; ConfigError, with the difference, where it was made for another space or objective."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=asked.name,
        storage=open_storage(asked.options.storage, asked.folder),
        sampler=asked.plan.make_sampler(),
        pruner=asked.plan.make_pruner(),
        directions=["minimize"] * len(asked.options.objectives),
        load_if_exists=True,
    )
    queue = Queue(study, asked.space, asked.folder)
    with queue.turn():
        _refuse_changes(asked, study)
        if PLAN not in study.user_attrs:
            study.set_user_attr(SWEEP_ID, uuid.uuid4().hex)
            _enqueue(asked, study)
        study.set_user_attr(PLAN, asdict(asked.plan))
    return queue


def _enqueue(asked: Asked, study: optuna.Study) -> None:
    """What is run before anything is sampled: a grid's combinations, or the present config and the known-good points.
    What a killed process has enqueued already is left as it is."""
    if asked.plan.is_grid:
        for point in asked.space.grid():
            study.enqueue_trial(asked.space.named(point), skip_if_exists=True)
        return
    points = [asked.space.named(point) for point in asked.options.enqueue]  # all checked before one is enqueued
    if asked.options.baseline and not any(BASELINE in trial.user_attrs for trial in study.trials):
        values, outside = present_values(asked.space, asked.cfg)
        if outside:
            print(f"note: the present config lies outside the space ({', '.join(outside)}); it is run all the same, as "
                  "trial 0, and the sampler does not learn from it")  # fmt: skip
            study.enqueue_trial({}, user_attrs={BASELINE: True, IS_OUTSIDE: values})
        else:
            study.enqueue_trial(asked.space.named(values), user_attrs={BASELINE: True})
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
