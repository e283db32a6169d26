"""Validate a configuration before anything is built."""

import math
import re
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.compose import to_plain_dict, without_sweep_keys
from harness.config.schema import RunSettings
from harness.config.targets import check_all_components
from harness.core.errors import ConfigError, did_you_mean
from harness.core.lr_keys import is_lr_key
from harness.core.paths import project_dir, run_command
from harness.diagnosis.expectations import parse_expectation
from harness.diagnosis.thresholds import Thresholds

REQUIRED_GROUPS = ("batch", "loop", "precision", "device", "start", "task", "optimizer", "schedule", "observers")
RUN_NAME_PATTERN = r"[\w.+-]{1,80}"


def validate_config(cfg: DictConfig) -> RunSettings:
    """Return the settings of `cfg`.

    Raises:
        ConfigError: If a value cannot work; the message names the first such value.
    """
    cfg = without_sweep_keys(cfg)
    if missing := sorted(OmegaConf.missing_keys(cfg)):
        raise ConfigError(f"{missing[0]}: has no value; add {missing[0]}=…")
    _check_top_level(cfg)
    schemas = {
        name: hint
        for name, hint in get_type_hints(RunSettings).items()
        if isinstance(hint, type) and is_dataclass(hint)
    }
    sections = {name: parse_section(name, schema, cfg[name]) for name, schema in schemas.items()}
    check_all_components(to_plain_dict(cfg))
    _check_learning_rates(cfg.optimizer)
    _check_expectations(cfg.expect)
    parse_section("thresholds", Thresholds, cfg.thresholds)
    check_writable("tracking.uri", _find_tracking_dir(cfg.tracking.uri))
    return RunSettings(
        seed=cfg.seed,
        weight_decay_applies_to=cfg.weight_decay_applies_to,
        output_dir=check_writable("output_dir", project_dir() / cfg.output_dir),
        cache_dir=check_writable("cache_dir", project_dir() / cfg.cache_dir),
        **sections,
    )


def parse_section(name: str, schema: type, node: DictConfig) -> Any:
    """Return `node` as an instance of the dataclass `schema`.

    Raises:
        ConfigError: If a key is unknown, or a value has the wrong type or is out of range.
    """
    known = [field.name for field in fields(schema)]
    for key in map(str, node):
        if key not in known:
            raise ConfigError(f"{name}.{key}: does not exist{did_you_mean(key, known)}")
    try:
        typed = to_plain_dict(OmegaConf.merge(OmegaConf.structured(schema), node))
        return schema(**{key: typed[key] for key in known})
    except OmegaConfBaseException as error:
        raise ConfigError(f"{name}.{error.full_key}: {str(error).partition(chr(10))[0]}") from error
    except ValueError as error:
        raise ConfigError(f"{name}.{error}") from error


def check_writable(key: str, folder: Path) -> Path:
    """Return `folder`, if a file can be created in it or in its nearest existing parent."""
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        tempfile.TemporaryFile(dir=existing).close()
    except OSError as error:
        raise ConfigError(f"{key}: {existing}: cannot be written to; choose another folder with {key}=…") from error
    return folder


def _check_top_level(cfg: DictConfig) -> None:
    for key, default in (("output_dir", "outputs"), ("cache_dir", ".cache")):
        if not isinstance(cfg[key], str) or not cfg[key]:
            raise ConfigError(f"{key}: {cfg[key]!r} must be a path; set {key}={default}")
    if cfg.name is not None and not re.fullmatch(RUN_NAME_PATTERN, str(cfg.name)):
        raise ConfigError(f"name: {cfg.name!r} must be 1 to 80 characters: letters, digits, . _ + -")
    for group in REQUIRED_GROUPS:
        if not isinstance(cfg.get(group), DictConfig):
            raise ConfigError(f"{group}: no option is chosen; `{' '.join(run_command())} --help` lists the options")
    if not isinstance(cfg.seed, int) or isinstance(cfg.seed, bool) or not 0 <= cfg.seed < 2**32:
        raise ConfigError(f"seed: {cfg.seed!r} must be a whole number from 0 to {2**32 - 1}")
    if cfg.weight_decay_applies_to not in ("hidden", "matrices", "all"):
        raise ConfigError(
            f"weight_decay_applies_to: {cfg.weight_decay_applies_to!r} must be one of hidden, matrices, all"
        )
    if cfg.lora and cfg.lora.get("_target_") is None:
        raise ConfigError(f"lora: {', '.join(cfg.lora)}: lora=none has no adapters; choose another option of lora")


def _check_learning_rates(optimizer: DictConfig) -> None:
    for name, value in to_plain_dict(optimizer).items():
        if is_lr_key(f"optimizer.{name}"):
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise ConfigError(f"optimizer.{name}: {value!r} is not a number")
            if not 0 < value < math.inf:
                raise ConfigError(f"optimizer.{name}: {value} must be a finite number above 0")


def _check_expectations(expect: Any) -> None:
    if not isinstance(expect, ListConfig):
        raise ConfigError(f"expect: {expect!r} is not a list; write \"expect=['{expect}']\"")
    for text in expect:
        try:
            parse_expectation(text)
        except ValueError as error:
            raise ConfigError(f"expect: {error}") from error


def _find_tracking_dir(uri: str | None) -> Path:
    """Return the folder of a SQLite store; a server needs none, so the project's own is checked in its place."""
    if uri is not None and uri.startswith("sqlite:///"):
        return Path(uri.removeprefix("sqlite:///")).parent
    return project_dir() / "mlruns"
