"""Create or open a study, and enqueue the trials that run before the sampler proposes any."""

import errno
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from harness.core.credentials import hide_credentials, hide_credentials_in_text
from harness.core.errors import ConfigError
from harness.core.terminal import print_fitted
from harness.sweep.request import SweepRequest
from harness.sweep.space.search_space import baseline_values
from harness.sweep.study.prior import enqueue_pairs
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import journal_path, open_storage
from harness.sweep.study.trial_attrs import (
    BASELINE,
    FIXED_VALUES,
    PRIOR,
    RETRY_OF,
    STUDY_SPEC,
    SWEEP_ID,
    WARM_START,
    has_result,
    read_trial_result,
)
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.study.warm_start import Prior, read_prior

UNUSABLE_PATH = (errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS)


class StudyChangedError(ConfigError):
    """A study exists with other settings, of which `changes` are lines."""

    def __init__(self, changes: Sequence[str], message: str) -> None:
        super().__init__(message)
        self.changes = changes


def check_existing_study(request: SweepRequest) -> bool:
    """Return whether the study exists, without creating it.

    Raises:
        ConfigError: If the storage cannot be read, or the study searches something else or is not ours.
    """
    if request.options.storage is None and not os.path.lexists(journal_path(request.folder)):
        _check_new_study(request)
        return False
    with _explain_damage(request):
        storage = open_storage(request.options.storage, request.folder)
        if request.study_name not in optuna.get_all_study_names(storage):
            _check_new_study(request)
            return False
        study = optuna.load_study(study_name=request.study_name, storage=storage)
        _check_study(request, study)
        if STUDY_SPEC not in study.user_attrs:  # its setup was cut off
            _read_prior(request)
    return True


def open_study(request: SweepRequest) -> TrialQueue:
    """Create or open the study.

    Raises:
        ConfigError: If the study exists with another search space, objective or config, which the message lists, or if
            it is not ours.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    with _explain_damage(request):
        return _open_study(request)


def _open_study(request: SweepRequest) -> TrialQueue:
    study = optuna.create_study(
        study_name=request.study_name,
        storage=open_storage(request.options.storage, request.folder),
        sampler=request.spec.make_sampler(),
        pruner=request.spec.make_pruner(),
        directions=list(request.spec.directions),
        load_if_exists=True,
    )
    queue = TrialQueue(study, request.space, request.folder)
    with queue.hold_lock():
        _check_study(request, study)
        if STUDY_SPEC not in study.user_attrs:
            prior = _read_prior(request)
            study.set_user_attr(SWEEP_ID, uuid.uuid4().hex)
            _enqueue_initial_trials(request, study, prior)
        for trial in _list_mendable_trials(study):
            queue.requeue_trial(trial)
        study.set_user_attr(STUDY_SPEC, asdict(request.spec))  # last: until then setup may have been cut off
    return queue


@contextmanager
def _explain_damage(request: SweepRequest) -> Iterator[None]:
    """Turn errors of a damaged or unreachable storage into a ConfigError with its message."""
    try:
        yield
    except OSError as error:
        if error.errno not in UNUSABLE_PATH:  # such as a full disk: it may work later
            raise
        remedy = "move it away, or choose another name with sweep.study=NAME"
        raise ConfigError(f"{error.filename}: cannot be used as a journal ({error.strerror}); {remedy}") from error
    except (StorageInternalError, SQLAlchemyError) as error:
        url = str(request.options.storage)
        reason = hide_credentials_in_text(str(error.__cause__ or error).partition("\n")[0], url)
        raise ConfigError(
            f"sweep.storage: {hide_credentials(url)}: {reason}; restore a copy, or use another storage"
        ) from error


def _check_new_study(request: SweepRequest) -> None:
    _check_no_trial_folders(request)
    _read_prior(request)


def _read_prior(request: SweepRequest) -> Prior | None:
    return None if request.options.warm_start is None else read_prior(request)


def _check_no_trial_folders(request: SweepRequest) -> None:
    """Check that a new study would not number its trials as those of a lost one, whose folders are still there."""
    numbers = sorted(int(path.name) for path in request.folder.glob("*") if path.name.isdecimal() and path.is_dir())
    if numbers:
        raise ConfigError(
            f"{request.folder}: holds trials {numbers[0]} to {numbers[-1]}, but {_storage_name(request)} has no study "
            f"{request.study_name}; restore it, move the folder away, or choose another name with sweep.study=NAME"
        )


def _storage_name(request: SweepRequest) -> str:
    storage = request.options.storage
    return "its study.journal" if storage is None else f"sweep.storage={hide_credentials(storage)}"


def _check_study(request: SweepRequest, study: optuna.Study) -> None:
    """Check that the study was made by this program for the same search."""
    origin = _describe_foreign_origin(request, study)
    if origin:
        raise ConfigError(
            f"sweep.study: {request.study_name} in {_storage_name(request)} was not made by this program ({origin}); "
            "choose another name with sweep.study=NAME"
        )
    stored = study.user_attrs.get(STUDY_SPEC)
    try:
        old = StudySpec(**stored) if stored else None
        changes = request.spec.describe_changes(old) if old else []
        if old and changes and request.spec.differs_in_metric_only(old) and _list_mendable_trials(study):
            return
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ConfigError(
            f"sweep.study: {request.study_name}: its settings are not as this version stores them "
            f"({type(error).__name__}: {error}); start a new study with sweep.study=NAME"
        ) from error
    if old:
        _check_warm_start(request, study)
    if changes:
        raise StudyChangedError(
            changes,
            f"study {request.study_name} exists with other settings:\n"
            + "\n".join(changes)
            + "\nstart a new study with sweep.study=NAME",
        )


def _check_warm_start(request: SweepRequest, study: optuna.Study) -> None:
    """Check that a study that exists began with the warm start that the user asks for; later it has no effect."""
    began = study.user_attrs.get(WARM_START) or {}
    if request.options.warm_start is None or hide_credentials(request.options.warm_start) == began.get("given"):
        return
    how = f"began with sweep.warm_start={began['given']}" if began else "began without it"
    raise ConfigError(
        f"sweep.warm_start: {hide_credentials(request.options.warm_start)}: study {request.study_name} {how}; leave it "
        "out, or start a new study with sweep.study=NAME"
    )


def _list_mendable_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the failed trials that ended a sweep, if the study has no result, so that it may take another metric."""
    trials = study.get_trials(deepcopy=False)
    if any(has_result(trial) or trial.state == TrialState.RUNNING for trial in trials):
        return []
    last_attempts = {trial.user_attrs.get(RETRY_OF, trial.number): trial for trial in trials}
    return [trial for trial in last_attempts.values() if read_trial_result(trial).get("ends_sweep")]


def _describe_foreign_origin(request: SweepRequest, study: optuna.Study) -> str:
    """Return what shows that another program made the study, or an empty string.

    A study without spec may be one of ours whose setup was cut off: it is then empty, or already has a sweep id.
    """
    if STUDY_SPEC in study.user_attrs:
        return ""
    n_trials, asked = len(study.get_trials(deepcopy=False)), list(request.spec.directions)
    if SWEEP_ID not in study.user_attrs:
        if n_trials:
            return f"by plain Optuna: {n_trials} trials"
        names = [*(study.metric_names or ()), *study.user_attrs]
        if names:
            return f"by plain Optuna: {', '.join(names)}"
    directions = [direction.name.lower() for direction in study.directions]
    if directions != asked:
        return f"directions {', '.join(directions)}, not {', '.join(asked)}"
    return ""


def _enqueue_initial_trials(request: SweepRequest, study: optuna.Study, prior: Prior | None) -> None:
    """Enqueue the current config, the points of `sweep.enqueue`, and the first proposals of a warm start.

    Trials that a killed process already enqueued are kept.
    """
    space = request.space
    points = [space.to_trial_params(point) for point in request.options.enqueue]  # raises before any is enqueued
    if request.has_baseline and not any(BASELINE in trial.user_attrs for trial in study.trials):
        values, out_of_range = baseline_values(space, request.current_values)
        if out_of_range:
            print(_describe_outside_baseline(out_of_range, request.current_values))
            study.enqueue_trial({}, user_attrs={BASELINE: True, FIXED_VALUES: values})
        else:
            study.enqueue_trial(space.to_trial_params(values), user_attrs={BASELINE: True})
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)
    if prior is not None:
        given = hide_credentials(str(request.options.warm_start))
        study.set_user_attr(WARM_START, {"given": given, "source": prior.source})
        enqueue_pairs(study, space, prior.points, prior.source)
        numbers = [trial.number for trial in study.get_trials(deepcopy=False) if trial.user_attrs.get(PRIOR)]
        print_fitted(prior.describe(numbers, space.searched_keys))


def _describe_outside_baseline(out_of_range: Sequence[str], current_values: Mapping[str, Any]) -> str:
    """Return why the sampler does not learn from trial 0."""
    unknown = [key for key in out_of_range if key.partition("=")[0] not in current_values]
    if unknown:
        return (
            f"note: trial 0 runs with the program's own values of {', '.join(unknown)}; they are unknown, so the "
            "sampler does not learn from it"
        )
    return (
        f"note: the current config is outside the search space ({', '.join(out_of_range)}); "
        "it still runs as trial 0, but the sampler does not learn from it"
    )
