"""Reproduce the configuration of a recorded run as overrides, and extend it with valid changes."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from harness.config.alternatives import find_replaced_keys, read_given_settings
from harness.config.compose import (
    NON_TRAINING_KEYS,
    compose_config,
    contains_key,
    load_run_config,
    to_plain_dict,
    without_sweep_keys,
)
from harness.config.errors import HYDRA_ERRORS
from harness.config.locks import check_locked
from harness.config.overrides import format_value, read_override_key
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.core.events import Diagnosis
from harness.diagnosis.dialects import to_override
from harness.record import metrics_file

SEARCH_PATH_KEY = "hydra.searchpath"
# Overrides of a run or of its sweep that do not apply to another run; the search path is an exception.
NOT_REPRODUCED_KEYS = ("name", "expect", "sweep", "sweeps", "hydra", "pruner", "preflight")


def reproduce_overrides(folder: Path) -> list[str]:
    """Return overrides that compose to the configuration of the run in `folder`.

    They start with the recorded overrides, or with the experiment named like the run if these do not compose here; the
    remaining differences follow. They do not score the test split, which is for the end.
    """
    recorded = [one for one in _recorded_overrides(folder) if read_override_key(one) != "score_test"]
    return _reproduce_settings(folder, recorded)[0]


def reproduce_named_overrides(folder: Path, search_path: Sequence[str]) -> list[str]:
    """Return the same with the name of the run, and on this search path.

    A run that somebody else recorded cannot add files of theirs, which could name another MLflow store.
    """
    recorded = [one for one in _recorded_overrides(folder) if read_override_key(one) != SEARCH_PATH_KEY]
    overrides, name = _reproduce_settings(folder, [*search_path, *recorded])
    return [*overrides, *([] if name is None else [f"name={format_value(name)}"])]


def _reproduce_settings(folder: Path, recorded: list[str]) -> tuple[list[str], str | None]:
    """Return overrides for the run in `folder`, and its name if they do not set it."""
    target = load_run_config(folder)
    overrides, composed = _compose_first(recorded, [f"experiment={target.name}"])
    changes = _diff_settings(_training_settings(target), _training_settings(without_sweep_keys(composed)))
    return [*overrides, *changes], target.name if target.name != composed.name else None


def keep_accepted_suggestions(folder: Path, diagnoses: Sequence[Diagnosis]) -> list[Diagnosis]:
    """Return the diagnoses with only those suggestions that are valid for the run in `folder`."""
    if not any(diagnosis.suggestions for diagnosis in diagnoses):
        return list(diagnoses)
    base = reproduce_overrides(folder)
    kept = []
    for diagnosis in diagnoses:
        overrides = [to_override(one) for one in diagnosis.suggestions if one.is_setting]
        valid = select_valid_overrides(base, overrides)
        suggestions = [one for one in diagnosis.suggestions if not one.is_setting or to_override(one) in valid]
        kept.append(replace(diagnosis, suggestions=tuple(suggestions)))
    return kept


def select_valid_overrides(base: Sequence[str], changes: Sequence[str]) -> tuple[str, ...]:
    """Return all `changes` if together they are valid on top of `base`, else each that is valid with those before."""
    if _is_valid_change(base, changes):
        return tuple(changes)
    kept: tuple[str, ...] = ()
    for override in changes:
        kept = (*kept, override) if _is_valid_change(base, (*kept, override)) else kept
    return kept


def name_followup_study(name: str) -> str:
    """Return the name of a new study for the run `name`, so that no study with another search space is resumed."""
    plain = re.sub(r"[^\w.+-]", "_", name)
    return f"after_{plain}"[:80]


def _is_valid_change(base: Sequence[str], changes: Sequence[str]) -> bool:
    changed = [read_override_key(override) for override in changes]
    try:
        changed += find_replaced_keys(read_given_settings(changes))
        kept = [one for one in base if not any(contains_key(key, read_override_key(one)) for key in changed)]
        overrides = [*kept, *changes]
        cfg = compose_config(overrides)
        check_locked(cfg, overrides)
        validate_config(cfg)
    except (*HYDRA_ERRORS, ConfigError):
        return False
    return True


def _compose_first(*candidates: list[str]) -> tuple[list[str], DictConfig]:
    """Return the first non-empty candidate that composes; the files it needs may be absent here."""
    for overrides in filter(None, candidates):
        with suppress(*HYDRA_ERRORS):
            return overrides, compose_config(overrides)
    return [], compose_config([])


def _recorded_overrides(folder: Path) -> list[str]:
    """Return the overrides that the run recorded, without NOT_REPRODUCED_KEYS."""
    start = next((entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)), {})
    return [
        override
        for override in start.get("overrides", [])
        if (key := read_override_key(override)) == SEARCH_PATH_KEY or key.partition(".")[0] not in NOT_REPRODUCED_KEYS
    ]


def _training_settings(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in to_plain_dict(cfg).items() if key not in NON_TRAINING_KEYS}


def _diff_settings(target: Mapping[str, Any], composed: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the overrides that turn `composed` into `target`."""
    for name in [*target, *(name for name in composed if name not in target)]:
        key = f"{prefix}{name}"
        value, current = target.get(name), composed.get(name)
        if isinstance(value, dict) and isinstance(current, dict):
            yield from _diff_settings(value, current, f"{key}.")
        elif name not in target:
            yield f"~{key}"
        elif name not in composed or value != current:
            yield f"{'' if name in composed else '+'}{key}={format_value(value)}"
