"""Every private part of Optuna that the harness uses. tests/sweep/test_internals.py fails when Optuna changes one."""

import warnings
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import numpy as np
import optuna
from optuna._transform import _SearchSpaceTransform
from optuna.distributions import BaseDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal._file import LOCK_FILE_SUFFIX, BaseJournalFileLock
from optuna.storages.journal._storage import JournalOperation, JournalStorageReplayResult
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial
from sqlalchemy.engine import Engine

JournalFileLock = BaseJournalFileLock
"""Base class of the locks that `JournalFileBackend` accepts; it has `acquire() -> bool` and `release()`."""


CREATE_TRIAL = int(JournalOperation.CREATE_TRIAL)


class JournalReplay:
    """State of a journal's studies after some of its records."""

    def __init__(self) -> None:
        self._state = JournalStorageReplayResult("replay")

    def apply_record(self, record: Any, *, is_strict: bool = False) -> str:
        """Apply a record as Optuna does when it opens a journal; return the problem, or an empty string.

        Optuna ignores records of trials that do not exist; `is_strict` makes them a problem. They show that the record
        that created a trial is missing, so that all later ones belong to another trial.
        """
        if not isinstance(record, dict) or "op_code" not in record:
            return "not a record of Optuna"
        if record["op_code"] not in list(JournalOperation):
            return f"unknown operation {record['op_code']!r}"
        if is_strict and record.get("trial_id", 0) not in self._state._trials and "trial_id" in record:
            return f"trial {record['trial_id']} does not exist"
        try:
            self._state.apply_logs([record])
        except Exception as error:  # whatever a wrong value leads to
            return f"{JournalOperation(record['op_code']).name.lower()}: {type(error).__name__} {error}".rstrip()
        return ""


def optuna_lock_path(journal: Path) -> Path:
    """Return the symbolic link, or file, that exists while plain Optuna writes a journal."""
    return journal.with_name(f"{journal.name}{LOCK_FILE_SUFFIX}")


def get_database_engine(study: Study) -> Engine | None:
    """Return the SQLAlchemy engine of a study in a database, None for a journal file."""
    storage = study._storage  # Optuna wraps an RDBStorage in a cache
    return storage._backend.engine if isinstance(storage, _CachedStorage) else None


def get_all_trials(study: Study) -> list[FrozenTrial]:
    """Return all trials, also where Hyperband passes a study that shows only those of one bracket."""
    return study._storage.get_all_trials(study._study_id, deepcopy=False)


def get_study_attrs(study: Study) -> Mapping[str, Any]:
    """Return the user attributes of a study, also where Hyperband passes one that shows only a bracket."""
    return study._storage.get_study_user_attrs(study._study_id)


def start_new_trial(study: Study, user_attrs: Mapping[str, Any]) -> Trial:
    """Start a new trial, with `user_attrs` set before it is running.

    `Study.ask` sets none: if its process dies right after it, nothing tells which program started the trial.
    """
    study._thread_local.cached_all_trials = None  # as `Study.ask` does
    template = create_trial(state=TrialState.RUNNING, user_attrs=dict(user_attrs))
    return Trial(study, study._storage.create_new_trial(study._study_id, template))


def start_waiting_trial(study: Study, waiting: FrozenTrial, user_attrs: Mapping[str, Any]) -> Trial | None:
    """Start a waiting trial, with `user_attrs` set before it is running; None if another program has started it."""
    storage, trial_id = study._storage, waiting._trial_id
    study._thread_local.cached_all_trials = None
    if storage.get_trial(trial_id).state != TrialState.WAITING:
        return None
    with suppress(UpdateFinishedTrialError):
        for key, value in user_attrs.items():
            storage.set_trial_user_attr(trial_id, key, value)
        if storage.set_trial_state_values(trial_id, TrialState.RUNNING):
            return Trial(study, trial_id)
        for key in user_attrs:
            storage.set_trial_user_attr(trial_id, key, waiting.user_attrs.get(key))
    return None


def return_to_waiting(study: Study, trial: Trial | FrozenTrial, user_attrs: Mapping[str, Any]) -> None:
    """Set user attributes on a running trial and let it wait, with its params and values, to be started again.

    Raises:
        optuna.exceptions.UpdateFinishedTrialError: If another process has ended the trial.
    """
    for key, value in user_attrs.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)
    study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)


def get_intermediate_values(trial: Trial) -> Mapping[int, float]:
    """Return the values that a running trial has reported, by step."""
    return trial._get_latest_trial().intermediate_values


def should_prune(trial: Trial, hidden: Container[int]) -> bool:
    """Ask the pruner about a running trial, without showing it the trials with the numbers `hidden`."""
    return trial.study.pruner.prune(hide_trials(trial.study, hidden), trial._get_latest_trial())


def suggest_value(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    """Suggest a value from any distribution. The public methods each take one kind of distribution."""
    return trial._suggest(name, distribution)


def is_in_distribution(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution contains a value."""
    try:
        return distribution._contains(distribution.to_internal_repr(value))
    except (TypeError, ValueError):  # not of its type, or not one of its choices
        return False


def get_enqueued_params(trial: FrozenTrial) -> dict[str, Any]:
    """Return the params a trial was enqueued with, which `trial.params` lacks until they are suggested."""
    return trial.system_attrs.get("fixed_params", {})


def get_heartbeat_interval(study: Study) -> int | None:
    """Return the seconds between two heartbeats, None where the storage keeps no heartbeats."""
    storage = study._storage
    return storage.get_heartbeat_interval() if isinstance(storage, BaseHeartbeat) else None


def record_heartbeat(trial: Trial) -> None:
    """Record that the trial is still running, if the storage keeps heartbeats."""
    storage = trial.storage
    if isinstance(storage, BaseHeartbeat) and storage.get_heartbeat_interval() is not None:
        storage.record_heartbeat(trial._trial_id)


def find_stale_trials(study: Study) -> set[int]:
    """Return the numbers of running trials whose last heartbeat is older than the storage's grace period."""
    storage = study._storage
    if not isinstance(storage, BaseHeartbeat) or storage.get_heartbeat_interval() is None:
        return set()
    return {storage.get_trial_number_from_id(trial_id) for trial_id in storage._get_stale_trial_ids(study._study_id)}


def fail_trial(study: Study, trial: FrozenTrial, user_attrs: Mapping[str, Any]) -> None:
    """Set user attributes and the state FAIL on a trial that another process was running.

    Raises:
        optuna.exceptions.UpdateFinishedTrialError: If the trial ended in the meantime.
    """
    _end_trial(study, trial, user_attrs, TrialState.FAIL)


def complete_trial(study: Study, trial: FrozenTrial, user_attrs: Mapping[str, Any], values: Sequence[float]) -> None:
    """Set user attributes, values and the state COMPLETE on a trial that another process was running.

    Raises:
        optuna.exceptions.UpdateFinishedTrialError: If the trial ended in the meantime.
    """
    _end_trial(study, trial, user_attrs, TrialState.COMPLETE, values)


def _end_trial(
    study: Study,
    trial: FrozenTrial,
    user_attrs: Mapping[str, Any],
    state: TrialState,
    values: Sequence[float] | None = None,
) -> None:
    for key, value in user_attrs.items():
        study._storage.set_trial_user_attr(trial._trial_id, key, value)
    study._storage.set_trial_state_values(trial._trial_id, state, values)


def hide_trials(study: Study, numbers: Container[int]) -> Study:
    """Return a view of a study without the trials of these numbers, for a sampler or pruner to read."""
    return cast(Study, _FilteredStudy(study, numbers))


def replace_trials(study: Study, trials: Sequence[FrozenTrial]) -> Study:
    """Return a view of a study that has `trials` in place of its own, for a sampler to read."""
    return cast(Study, _ReplacedStudy(study, trials))


class UnitCube:
    """Points of a search space as rows of numbers from 0 to 1: a column per number, on the scale of its range, and a
    column per choice of a categorical range."""

    def __init__(self, space: Mapping[str, BaseDistribution]) -> None:
        self._transform = _SearchSpaceTransform(dict(space), transform_0_1=True)
        self.choice_columns = [columns for columns in self._transform.column_to_encoded_columns if len(columns) > 1]
        """Columns of each categorical range."""

    def encode(self, params: Mapping[str, Any]) -> np.ndarray:
        return self._transform.transform(dict(params))

    def decode(self, point: np.ndarray) -> dict[str, Any]:
        """Return the params nearest to a point."""
        return self._transform.untransform(point)


def silence_optuna() -> None:
    """Turn off Optuna's log line per trial, and its warnings of experimental classes and unused heartbeats."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage")


class _StudyView:
    """Wrapper of a study, which may itself be a pruner's view of one. Samplers read trials through `_get_trials`."""

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
        raise NotImplementedError


class _FilteredStudy(_StudyView):
    """View of a study without some of its trials."""

    def __init__(self, study: Study, hidden: Container[int]) -> None:
        super().__init__(study)
        self._hidden = hidden

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        trials = self._study._get_trials(deepcopy, states, use_cache)
        return [trial for trial in trials if trial.number not in self._hidden]


class _ReplacedStudy(_StudyView):
    """View of a study with other trials. They are never copied, as no sampler changes them."""

    def __init__(self, study: Study, replacing: Sequence[FrozenTrial]) -> None:
        super().__init__(study)
        self._replacing = replacing

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._replacing if states is None or trial.state in states]
