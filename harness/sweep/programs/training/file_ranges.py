"""Fit the ranges of a sweep file to a configuration: those that do not apply to it are not searched.

Ranges on the command line are left as they are: if they do not apply, that is an error.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from omegaconf import DictConfig

from harness.config.alternatives import find_replaced_keys, read_given_settings
from harness.config.compose import has_key
from harness.config.group_options import find_options_with_key, list_options
from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS, ConfigSpace, read_config_space
from harness.sweep.space.search_space import check_condition, range_ends

Conditions = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class FittedRanges:
    """Ranges for every trial, ranges for one option of a group, and notes about what was changed."""

    params: Mapping[str, Any]
    conditional: Mapping[str, Mapping[str, Any]]
    notices: Sequence[str]


def fit_file_ranges(
    params: Mapping[str, Any],
    conditional: Mapping[str, Any],
    arguments: Sequence[str],
    group_options: Mapping[str, str],
) -> FittedRanges:
    """Leave out ranges of a file that do not apply to the configuration that `arguments` and `group_options` choose.

    A range that applies to some of the searched options of its group becomes a conditional range.

    Raises:
        ConfigError: If a range is invalid, or a condition names an option that does not exist.
    """
    given = read_given_settings(arguments)
    replaced = {key: _find_replacement(key, given) for key in find_replaced_keys(given)}
    for condition in conditional:
        check_condition(condition, group_options)
    conditions = {name: _read_mapping(name, ranges) for name, ranges in conditional.items()}
    kept, notices = dict(params), []
    for ranges in (kept, *conditions.values()):
        for key in [key for key in ranges if key in replaced]:
            del ranges[key]
            notices.append(f"{key} is not searched: {replaced[key]} replaces it")
    space = read_config_space(kept, arguments, conditions, group_options)

    @cache
    def compose_option(group: str, option: str) -> DictConfig | None:
        with suppress(ConfigError):  # what is wrong with an option is reported when the bounds are built
            return space.compose_config({group: option} if group in space.ranges else {}, TRIAL_DEFAULTS)
        return None

    def has_option_key(group: str, option: str, key: str) -> bool:
        cfg = compose_option(group, option)
        return cfg is None or has_key(cfg, key)

    for key in [key for key in kept if key not in given and _group_of(key, space)]:
        group = _group_of(key, space)
        options = _list_searched_options(space, group)
        fitting = [option for option in options if has_option_key(group, option, key)]
        if len(fitting) == len(options) or not (fitting or find_options_with_key(group, key, arguments)):
            continue  # a key that no option has is reported when the bounds are built
        text = kept.pop(key)
        for option in fitting:
            conditions.setdefault(f"{group}={option}", {}).setdefault(key, text)
        others = ", ".join(f"{group}={option}" for option in options if option not in fitting)
        notices.append(f"{key} is not searched{' there' if fitting else ''}: {others} has no such key")
    conditions = _select_conditions(conditions, space, arguments)
    for condition in list(conditions):
        group, _, option = condition.partition("=")
        if group not in space.ranges and option == space.group_options[group]:  # every trial meets it
            kept |= {key: text for key, text in conditions.pop(condition).items() if key not in given}
    return FittedRanges(kept, conditions, notices)


def _read_mapping(condition: str, ranges: Any) -> dict[str, Any]:
    """Return the ranges of a condition without null, with which a file takes back one or all ranges of another file."""
    if ranges is not None and not isinstance(ranges, Mapping):
        raise ConfigError(f"sweep.conditional.{condition}: {ranges!r} must be a mapping of keys to ranges")
    return {key: text for key, text in (ranges or {}).items() if text is not None}


def _find_replacement(key: str, given: Mapping[str, Any]) -> str:
    """Return the setting among `given` that replaces `key`."""
    return next(f"{name}={value}" for name, value in given.items() if key in find_replaced_keys({name: value}))


def _group_of(key: str, space: ConfigSpace) -> str:
    """Return the config group that a key of its section belongs to; an empty string if there is none."""
    group, dot, _ = key.partition(".")
    return group if dot and group in space.group_options else ""


def _list_searched_options(space: ConfigSpace, group: str) -> list[str]:
    return list(range_ends(space.ranges[group])) if group in space.ranges else [space.group_options[group]]


def _select_conditions(conditions: Conditions, space: ConfigSpace, arguments: Sequence[str]) -> Conditions:
    """Leave out conditions that no trial meets where another condition of the group is met.

    Raises:
        ConfigError: If one names an option that does not exist.
    """
    met, groups = {}, set()
    for condition, ranges in conditions.items():
        group, _, option = condition.partition("=")
        if option in _list_searched_options(space, group):
            met[condition] = ranges
            groups.add(group)
        elif option not in (options := list_options(group, arguments)):
            hint = did_you_mean(option, options)
            raise ConfigError(f"sweep.conditional.{condition}: {group} has no option {option!r}{hint}")
    left = {name: ranges for name, ranges in conditions.items() if name.partition("=")[0] not in groups}
    return {name: ranges for name, ranges in {**left, **met}.items() if ranges}
