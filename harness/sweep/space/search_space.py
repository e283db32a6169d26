"""What a sweep searches: ranges by key, some of which hold only where a group's choice does."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, Trial

from harness.config.errors import ConfigError, did_you_mean, explain_error
from harness.config.schema import NON_TRAINING_KEYS, SWEEP_ONLY_KEYS, compose_config, flatten_config
from harness.sweep.space.range_syntax import parse_ranges
from harness.sweep.study.trial_attrs import OUT_OF_SPACE_VALUES

CONDITION_SEPARATOR = " @ "
"""Stands between the key and the choice in Optuna's name of a conditional parameter."""

MAX_GRID_POINTS = 10_000


@dataclass(frozen=True)
class SearchSpace:
    """`ranges` by key; `conditional` by "group=choice"; `fixed` are the overrides that every trial has."""

    ranges: Mapping[str, BaseDistribution]
    conditional: Mapping[str, Mapping[str, BaseDistribution]]
    choices: Mapping[str, str]
    fixed: tuple[str, ...]

    def suggest_values(self, trial: Trial) -> dict[str, Any]:
        """A value for every key that is swept under the choices the trial makes, asked of the study's sampler."""
        values = {key: trial._suggest(key, found) for key, found in self.ranges.items() if self._is_group(key)}
        chosen = {**self.choices, **values}
        return values | {key: trial._suggest(name, found) for key, (name, found) in self._active_params(chosen).items()}

    def to_trial_params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """`values` by Optuna's names, to be enqueued; ConfigError for what is not swept or lies outside."""
        held = self._active_params({**self.choices, **values})
        known = {key: (key, found) for key, found in self.ranges.items() if self._is_group(key)} | held
        point = {}
        for key, value in values.items():
            if key not in known:
                raise ConfigError(f"{key}: the sweep does not search it{did_you_mean(key, known)}")
            name, found = known[key]
            if not is_in_range(found, value):
                raise ConfigError(f"{key}: {value} lies outside {format_range(found)}")
            point[name] = match_choice(found, value)
        return point

    def active_ranges(self, choices: Mapping[str, Any]) -> dict[str, BaseDistribution]:
        """The range of each key that a trial with these choices searches, groups first."""
        groups = {key: found for key, found in self.ranges.items() if self._is_group(key)}
        return groups | {key: found for key, (_, found) in self._active_params({**self.choices, **choices}).items()}

    def iterate_corners(self) -> Iterator[dict[str, Any]]:
        """Points that show every choice of every group, and the ends of every range, one at a time."""
        groups = {key: found.choices for key, found in self.ranges.items() if self._is_group(key)}
        for picked in itertools.product(*groups.values()):
            chosen = dict(zip(groups, picked, strict=True))
            held = self._active_params({**self.choices, **chosen})
            middle = {key: range_ends(found)[0] for key, (_, found) in held.items()}
            yield {**chosen, **middle}
            for key, (_, found) in held.items():
                yield from ({**chosen, **middle, key: end} for end in range_ends(found)[1:])

    def compose_config(self, values: Mapping[str, Any], defaults: Sequence[str] = ()) -> DictConfig:
        """The configuration of a trial that sets `values`; `defaults` are overrides that what the user says outranks.

        ConfigError for a key that does not exist."""
        groups = [f"{key}={value}" for key, value in values.items() if self._is_group(key)]
        overrides = [*defaults, *self.fixed, *groups]
        try:
            cfg = compose_config(overrides)
        except (HydraException, ValueError) as error:  # the latter for a group without an option
            raise ConfigError(explain_error(error, overrides)) from error
        for key, value in values.items():
            if not self._is_group(key):
                _update_config(cfg, key, parse_choice(value), " ".join(groups))
        return cfg

    def list_grid_points(self) -> list[dict[str, Any]]:
        """Every combination, the last key varying fastest; ConfigError where a range has no steps, or too many."""
        if self.conditional:
            raise ConfigError("sweep.conditional: a grid runs every combination, so it takes no conditional ranges")
        values = {key: _list_range_values(key, found) for key, found in self.ranges.items()}
        count = math.prod(map(len, values.values()))
        if count > MAX_GRID_POINTS:
            raise ConfigError(
                f"{', '.join(values)}: a grid runs every combination, and there are {count}; list at most {MAX_GRID_POINTS}, "
                "or sample them with hydra/sweeper/sampler=random"
            )
        return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]

    def format_ranges(self) -> dict[str, str]:
        """Every range in Hydra's sweep syntax, by key and condition."""
        held = [
            (f"{key}{CONDITION_SEPARATOR}{where}", one)
            for where, ranges in self.conditional.items()
            for key, one in ranges.items()
        ]
        return {name: format_range(found) for name, found in [*self.ranges.items(), *held]}

    @property
    def searched_keys(self) -> set[str]:
        """Every key that any trial may search."""
        return set(self.ranges).union(*self.conditional.values())

    @property
    def is_conditional(self) -> bool:
        """Whether trials may differ in what they search."""
        return any(where.partition("=")[0] in self.ranges for where in self.conditional)

    def _is_group(self, key: str) -> bool:
        return key in self.choices

    def _active_params(self, chosen: Mapping[str, Any]) -> dict[str, tuple[str, BaseDistribution]]:
        """Optuna's name and the range of each key that is no group, under these choices."""
        held = {key: (key, found) for key, found in self.ranges.items() if not self._is_group(key)}
        for where, ranges in self.conditional.items():
            group, _, choice = where.partition("=")
            if chosen.get(group) == choice:
                is_always = group not in self.ranges
                held |= {
                    key: (key if is_always else f"{key}{CONDITION_SEPARATOR}{where}", found)
                    for key, found in ranges.items()
                }
        return held


def read_search_space(
    params: Mapping[str, Any],
    arguments: Sequence[str],
    conditional: Mapping[str, Mapping[str, Any]],
    choices: Mapping[str, str],
) -> SearchSpace:
    """The space of `hydra.sweeper.params` and the command line, which has the last word on each key.

    Ranges are in Hydra's sweep syntax. ConfigError for a range that says nothing.
    """
    said_here = {argument.partition("=")[0] for argument in arguments}
    kept = [f"{key}={value}" for key, value in params.items() if key not in said_here]
    ranges, fixed, deleted = parse_ranges([*kept, *arguments])
    held = {}
    for where, inner in conditional.items():
        _check_condition(where, choices)
        if not isinstance(inner, Mapping):
            raise ConfigError(f"sweep.conditional.{where}: {inner!r} is no mapping of keys to ranges")
        found, constant, _ = parse_ranges([f"{key}={value}" for key, value in inner.items()])
        if constant:
            raise ConfigError(f"sweep.conditional.{where}: {', '.join(constant)} has one value and no range to search")
        held[where] = {key: one for key, one in found.items() if key not in said_here}
    for key, one in [*ranges.items(), *(pair for inner in held.values() for pair in inner.items())]:
        _check_range_key(key, one, choices)
    chosen = {key: value for key, value in fixed.items() if key in choices}
    overrides = tuple(f"{key}={value}" for key, value in fixed.items() if _root_key(key) not in SWEEP_ONLY_KEYS)
    return SearchSpace(ranges, held, {**choices, **chosen}, (*overrides, *deleted))


def config_key(name: str) -> str:
    """The key of the configuration that Optuna's parameter `name` stands for."""
    return name.partition(CONDITION_SEPARATOR)[0]


def parse_choice(value: Any) -> Any:
    """The value that Hydra makes of a choice."""
    return OverridesParser.create().parse_override(f"key={value}").value() if isinstance(value, str) else value


def is_in_range(found: BaseDistribution, value: Any) -> bool:
    """Whether `value` lies in the range; a choice is compared as what Hydra makes of it."""
    if isinstance(found, CategoricalDistribution):
        return any(_is_same_value(parse_choice(choice), parse_choice(value)) for choice in found.choices)
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    is_whole = isinstance(found, FloatDistribution) or value == int(value)
    return is_whole and found._contains(found.to_internal_repr(value))


def match_choice(found: BaseDistribution, value: Any) -> Any:
    """What stands for `value` in the range: a choice may be a text that Hydra makes it of."""
    choices = found.choices if isinstance(found, CategoricalDistribution) else ()
    return next((choice for choice in choices if _is_same_value(parse_choice(choice), parse_choice(value))), value)


def range_ends(found: BaseDistribution) -> tuple[Any, ...]:
    """Both ends of a range, or every choice."""
    return found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high)


def format_range(found: BaseDistribution) -> str:
    """A range in Hydra's sweep syntax."""
    if isinstance(found, CategoricalDistribution):
        return ",".join(str(choice) for choice in found.choices)
    is_whole = isinstance(found, IntDistribution)
    if found.step and not (is_whole and found.step == 1):
        return f"range({found.low},{Decimal(str(found.high)) + Decimal(str(found.step))},{found.step})"
    text = f"interval({found.low},{found.high})"
    text = f"tag(log,{text})" if found.log else text
    return f"int({text})" if is_whole else text


def trial_values(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """What a trial sets, by key of the configuration."""
    outside = trial.user_attrs.get(OUT_OF_SPACE_VALUES, {})
    return {**outside, **{config_key(name): value for name, value in trial.params.items()}}


def _update_config(cfg: DictConfig, key: str, value: Any, chosen: str) -> None:
    if not isinstance(value, dict) and isinstance(OmegaConf.select(cfg, key.lstrip("+")), DictConfig):
        raise ConfigError(f"{key}: it holds several keys, and {value!r} is no mapping; search one of them")
    try:
        OmegaConf.update(cfg, key.lstrip("+"), value, force_add=key.startswith("+"))
    except OmegaConfBaseException as error:
        near = did_you_mean(key, flatten_config(OmegaConf.to_container(cfg)))
        under = f"under {chosen}; ranges for some options only go into sweep.conditional" if chosen else "to search"
        raise ConfigError(f"{key}: there is no such key {under}{near}") from error


def _is_same_value(one: Any, other: Any) -> bool:
    """1 and 1.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _check_range_key(key: str, found: BaseDistribution, choices: Mapping[str, str]) -> None:
    if _root_key(key) in (*SWEEP_ONLY_KEYS, *NON_TRAINING_KEYS, "sweeps"):
        raise ConfigError(f"{key}={format_range(found)}: no run's result depends on {key}; give it one value")
    options = found.choices if isinstance(found, CategoricalDistribution) else (None,)
    if key in choices and not all(isinstance(option, str) for option in options):
        raise ConfigError(
            f"{key}={format_range(found)}: a group has options, not numbers; list them: {key}={choices[key]},…"
        )


def _check_condition(where: str, choices: Mapping[str, str]) -> None:
    group, is_pair, choice = where.partition("=")
    if not is_pair or not choice:
        raise ConfigError(f"sweep.conditional: {where!r} is no choice; write group=option, such as optimizer=muon")
    if group not in choices:
        raise ConfigError(f"sweep.conditional.{where}: there is no group {group!r}{did_you_mean(group, choices)}")


def _list_range_values(key: str, found: BaseDistribution) -> list[Any]:
    if isinstance(found, CategoricalDistribution):
        return list(found.choices)
    if isinstance(found, IntDistribution) and not found.log:
        return list(range(found.low, found.high + 1, found.step))
    if isinstance(found, FloatDistribution) and found.step:
        count = round((found.high - found.low) / found.step) + 1
        low, step = Decimal(str(found.low)), Decimal(str(found.step))
        return [float(low + index * step) for index in range(count)]
    raise ConfigError(
        f"{key}: a grid runs values, and {format_range(found)} has none; list them, or use range(low,high,step)"
    )


def _root_key(key: str) -> str:
    return key.lstrip("+").partition(".")[0]
