"""What to type to have a recorded run's configuration again."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from harness.config.compose import NON_TRAINING_KEYS, compose_config, contains_key, without_sweep_keys
from harness.config.errors import HYDRA_ERRORS
from harness.config.locks import check_locked
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.core.events import Diagnosis
from harness.record import metrics_file

SEARCH_PATH = "hydra.searchpath"
NOT_REPRODUCED_KEYS = ("name", "expect", "sweep", "sweeps", "hydra", "pruner", "preflight")
"""Roots of overrides that are of that run or its sweep alone."""

UNQUOTED_PATTERN, RESERVED_WORDS = r"[A-Za-z_][\w./-]*", ("null", "true", "false", "nan", "inf")
"""What needs no quotes."""


def reproduce_overrides(folder: Path) -> list[str]:
    """Overrides that compose to the configuration of the run in `folder`: those that were typed, as far as they are
    known and mean something here, or else the experiment of the run's name; and what differs beside them."""
    wanted = OmegaConf.load(folder / "config.yaml")
    typed, made = _compose_first(_recorded_overrides(folder), [f"experiment={wanted.name}"])
    return [*typed, *_diff_settings(_training_settings(wanted), _training_settings(without_sweep_keys(made)))]


def keep_accepted_overrides(folder: Path, diagnoses: Sequence[Diagnosis]) -> list[Diagnosis]:
    """The diagnoses with those overrides alone that run.py takes for the run in `folder`."""
    if not any(diagnosis.overrides for diagnosis in diagnoses):
        return list(diagnoses)
    typed = reproduce_overrides(folder)
    return [replace(diagnosis, overrides=select_valid_overrides(typed, diagnosis.overrides)) for diagnosis in diagnoses]


def select_valid_overrides(typed: Sequence[str], wanted: Sequence[str]) -> tuple[str, ...]:
    """What run.py takes of `wanted` in place of or beside what is `typed`: all, or each that goes with those before."""
    if _is_valid_change(typed, wanted):
        return tuple(wanted)
    kept: tuple[str, ...] = ()
    for override in wanted:
        kept = (*kept, override) if _is_valid_change(typed, (*kept, override)) else kept
    return kept


def name_followup_study(name: str) -> str:
    """A study's name of its own, so that no study of another space is gone on with."""
    plain = re.sub(r"[^\w.+-]", "_", name)
    return f"after_{plain}"[:80]


def _is_valid_change(typed: Sequence[str], wanted: Sequence[str]) -> bool:
    replaced = [_override_key(override) for override in wanted]
    overrides = [*(one for one in typed if not any(contains_key(key, _override_key(one)) for key in replaced)), *wanted]
    try:
        cfg = compose_config(overrides)
        check_locked(cfg, overrides)
        validate_config(cfg)
    except (*HYDRA_ERRORS, ConfigError):
        return False
    return True


def _override_key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _compose_first(*candidates: list[str]) -> tuple[list[str], DictConfig]:
    """The first that is something and composes; a folder of the user's own, or another version, may have been meant."""
    for overrides in filter(None, candidates):
        with suppress(*HYDRA_ERRORS):
            return overrides, compose_config(overrides)
    return [], compose_config([])


def _recorded_overrides(folder: Path) -> list[str]:
    """Return the overrides that the run recorded, without those that do not apply to another run."""
    start = next((entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)), {})
    return [
        override
        for override in start.get("overrides", [])
        if (key := _override_key(override)) == SEARCH_PATH or key.partition(".")[0] not in NOT_REPRODUCED_KEYS
    ]


def _training_settings(cfg: DictConfig) -> dict[str, Any]:
    return {
        key: value for key, value in OmegaConf.to_container(cfg, resolve=True).items() if key not in NON_TRAINING_KEYS
    }


def _diff_settings(wanted: Mapping[str, Any], made: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in [*wanted, *(name for name in made if name not in wanted)]:
        key = f"{prefix}{name}"
        one, other = wanted.get(name), made.get(name)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _diff_settings(one, other, f"{key}.")
        elif name not in wanted:
            yield f"~{key}"
        elif name not in made or one != other:
            yield f"{'' if name in made else '+'}{key}={_format_value(one)}"


def _format_value(value: Any) -> str:
    """As Hydra's grammar has it."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case dict():
            return "{" + ",".join(f"{name}:{_format_value(inner)}" for name, inner in value.items()) + "}"
        case list():
            return f"[{','.join(map(_format_value, value))}]"
        case str() if re.fullmatch(UNQUOTED_PATTERN, value) and value.lower() not in RESERVED_WORDS:
            return value
        case str():
            escaped = re.sub(r"\\+(?='|\Z)", lambda found: 2 * found[0], value).replace("'", "\\'")
            return f"'{escaped}'"
    return str(value)
