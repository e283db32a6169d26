"""The ranges that a sweep over an app searches, and the overrides of the app's jobs."""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import CategoricalDistribution

from harness.config.compose import flatten_values
from harness.config.hydra_internals import is_range
from harness.config.overrides import format_value, read_override_key
from harness.core.credentials import hide_secret_settings
from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.hydra_internals import parse_distribution
from harness.sweep.programs.hydra_app.app_command import list_typed_overrides
from harness.sweep.programs.hydra_app.command_line import list_value_overrides
from harness.sweep.results.formatting import format_override
from harness.sweep.space.range_syntax import parse_ranges
from harness.sweep.space.search_space import SearchSpace

MAX_COMPOSED = 50
"""Points of a space that are composed before the study is created."""
SHUFFLED = re.compile(r"([^=]+=)shuffle\((.*)\)", re.DOTALL)
PARAMS_KEY = "hydra.sweeper.params"


class AppOverrides(NamedTuple):
    """Overrides of a sweep: ranges that it searches, and values that all its jobs share."""

    ranges: list[str]
    fixed: list[str]


def read_app_overrides(params: Mapping[str, Any], arguments: Sequence[str]) -> AppOverrides:
    """Read `hydra.sweeper.params` and the overrides of the command line, which take precedence.

    A range of one value is a value. Lists are not shuffled, since the sampler chooses the order.

    Raises:
        ConfigError: If an override cannot be parsed, or a range cannot be searched.
    """
    given = {read_override_key(argument) for argument in arguments}
    overrides = AppOverrides([], [])
    for key, value in params.items():
        if isinstance(value, Mapping):
            inner = next(iter(value), "KEY")
            raise ConfigError(f"{PARAMS_KEY}.{key}: a section, not a range; write {key}.{inner}: RANGE in one line")
        if str(key).lstrip("+") not in given:
            text = f"{key}={value if isinstance(value, str) else format_value(value)}"
            try:
                _add_override(overrides, text)
            except ConfigError as error:
                raise ConfigError(f"{PARAMS_KEY}: {error}") from error
    for argument in arguments:
        _add_override(overrides, argument)
    return overrides


def _add_override(overrides: AppOverrides, text: str) -> None:
    if is_range(text):
        text = SHUFFLED.sub(r"\1\2", text)
        [override] = OverridesParser.create().parse_overrides([text])
        if override.is_sweep_override() and (value := _find_only_value(override)) is not None:
            text = format_override(override.get_key_element(), value)
    parse_ranges([text])
    (overrides.ranges if is_range(text) else overrides.fixed).append(text)


def _find_only_value(override: Override) -> str | None:
    """Return the value of a range that has no other, None for others and for ranges that cannot be searched."""
    with suppress(ValueError, HydraException, NotImplementedError, TypeError, AssertionError):
        dist = parse_distribution(override)
        if dist.single():
            only = dist.choices[0] if isinstance(dist, CategoricalDistribution) else dist.low
            return only if isinstance(only, str) else format_value(only).removesuffix(".0")
    return None


def apply_fixed_overrides(config: DictConfig, loader: ConfigLoader, overrides: AppOverrides) -> DictConfig:
    """Return the configuration of a sweep with all values that its trials share, as if all had been typed as such.

    Hydra leaves out ranges, also those of one value, and does not read `hydra.sweeper.params`.

    Raises:
        ConfigError: If it cannot be composed.
    """
    typed = list_typed_overrides(config)
    added = [one for one in overrides.fixed if one not in typed]
    if not added:
        return config
    keys = {read_override_key(one) for one in added}
    kept = [one for one in typed if read_override_key(one) not in keys]
    try:
        applied = loader.load_configuration(config.hydra.job.config_name, [*kept, *added], RunMode.MULTIRUN)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise ConfigError(describe_compose_error(error, added)) from error
    with open_dict(applied):
        applied.hydra.job.name = config.hydra.job.name
    OmegaConf.copy_cache(from_config=config, to_config=applied)
    return applied


def read_current_values(config: DictConfig, space: SearchSpace) -> dict[str, Any]:
    """Return the value of each key that is searched under the current options, for those that have one in `config`."""
    current = {}
    for key in space.active_ranges(space.group_options):
        value = space.group_options.get(key, _read_value(config, key.lstrip("+")))
        if value is not _UNKNOWN and value != "???":
            current[key] = value
    return current


def has_value(config: DictConfig, key: str) -> bool:
    """Return whether a key, which may begin with +, has a value in the configuration of the sweep."""
    value = _read_value(config, key.lstrip("+"))
    return value is not _UNKNOWN and value != "???"


_UNKNOWN = object()


def _read_value(config: DictConfig, key: str) -> Any:
    """Return a value as plain data, _UNKNOWN if there is none or it is known to a job only."""
    try:
        value = OmegaConf.select(config, key, default=_UNKNOWN, throw_on_missing=True)
        if isinstance(value, DictConfig | ListConfig):
            value = OmegaConf.to_container(value, resolve=True)
    except (OmegaConfBaseException, ValueError):
        return _UNKNOWN
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def check_jobs_compose(loader: ConfigLoader, config: DictConfig, space: SearchSpace, fixed: Sequence[str]) -> None:
    """Compose the jobs at both ends of every range, as far as there are not many.

    Raises:
        ConfigError: If one cannot be composed: a key does not exist, or has another type.
    """
    for values in islice(space.iterate_corners(), MAX_COMPOSED):
        compose_job(loader, config, values, fixed)


def compose_job(
    loader: ConfigLoader, config: DictConfig, values: Mapping[str, Any], fixed: Iterable[str]
) -> DictConfig:
    """Return the configuration of a job with `values`.

    Raises:
        ConfigError: If it cannot be composed.
    """
    overrides = [*list_value_overrides(values), *fixed]
    try:
        return loader.load_sweep_config(config, overrides)
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        message = describe_compose_error(error, overrides)
        if wrong := re.search(r"Could not override '([\w.]+)'", message):
            known = flatten_values(OmegaConf.to_container(config, resolve=False, enum_to_str=True))
            message += did_you_mean(wrong[1], [key for key in known if not key.startswith("hydra.")])
        raise ConfigError(message) from error


def describe_compose_error(error: Exception, overrides: Sequence[str]) -> str:
    """Return Hydra's reason in one line, after the override that it is about."""
    lines = [line.strip() for line in f"{error}\n{error.__cause__ or ''}".splitlines() if line.strip()]
    lines = [line for line in lines if not re.match(r"(full_key|object_type|reference_type)[:=]", line)]
    reason = "; ".join(dict.fromkeys(line.rstrip(".") for line in lines[:2])) or type(error).__name__
    listed = [index for index, line in enumerate(lines) if line.startswith("Available options in")]
    if listed:
        end = next((index for index in range(listed[0] + 1, len(lines)) if " " in lines[index]), len(lines))
        reason = f"{lines[0].rstrip('.')}; the options are {', '.join(lines[listed[0] + 1 : end])}"
    named = [one for one in overrides if re.search(rf"(?<![\w.]){re.escape(read_override_key(one))}(?![\w.])", reason)]
    return f"{' '.join(named or overrides)}: {reason}"


def list_fixed_settings(config: DictConfig, space: SearchSpace) -> dict[str, str]:
    """Return the settings of the app that all trials of a study must share, as they are written.

    Interpolations are not resolved: what they refer to is compared too, and times and folders change from run to run.
    Keys that are searched are left out, and paths.
    """
    plain = OmegaConf.to_container(config, resolve=False, enum_to_str=True)
    assert isinstance(plain, dict)
    settings = hide_secret_settings(flatten_values({key: plain[key] for key in plain if key != "hydra"}))
    searched = tuple(f"{key.lstrip('+')}." for key in space.searched_keys)
    return {
        key: text
        for key, text in settings.items()
        if key and not f"{key}.".startswith(searched) and not text.startswith("/")
    }
