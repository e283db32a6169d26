"""The search space of a sweep: ranges by key, some of which apply only to one option of a config group."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
    json_to_distribution,
)
from optuna.trial import Trial

from harness.core.errors import ConfigError, did_you_mean
from harness.sweep.hydra_internals import Range
from harness.sweep.optuna_internals import is_in_distribution, suggest_value
from harness.sweep.space.range_syntax import parse_ranges

# Separates key and condition in Optuna's name of a conditional parameter: "optimizer.lr @ optimizer=sgd".
CONDITION_SEPARATOR = " @ "
MAX_GRID_POINTS = 10_000


@dataclass(frozen=True)
class SearchSpace:
    """Ranges of a sweep.

    `ranges` apply to every trial and `conditional` to those that select the "group=option" that is its key.
    `group_options` is the current option of every config group; programs without groups have none.
    """

    ranges: Mapping[str, Range]
    conditional: Mapping[str, Mapping[str, Range]]
    group_options: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """Return the space as plain data."""
        return {
            "ranges": {key: distribution_to_json(dist) for key, dist in self.ranges.items()},
            "conditional": {
                condition: {key: distribution_to_json(dist) for key, dist in ranges.items()}
                for condition, ranges in self.conditional.items()
            },
            "group_options": dict(self.group_options),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SearchSpace":
        """Return the space that `to_json` has written."""
        conditional = {condition: _read_distributions(ranges) for condition, ranges in data["conditional"].items()}
        return SearchSpace(_read_distributions(data["ranges"]), conditional, data["group_options"])

    def suggest_values(self, trial: Trial) -> dict[str, Any]:
        """Let the sampler suggest a value for each group, then for each key searched under those options."""
        values = {
            key: suggest_value(trial, key, dist) for key, dist in self.ranges.items() if key in self.group_options
        }
        for key, (name, dist) in self._active_params(values).items():
            if not (name == key and key in values):  # a conditional range may narrow a group that is also searched
                values[key] = suggest_value(trial, name, dist)
        return values

    def to_trial_params(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Convert values by config key to Optuna params, for `study.enqueue_trial`.

        Raises:
            ConfigError: If a key is not searched, or its value is out of range.
        """
        active = self._active_params(values)
        params = {}
        for key, value in values.items():
            if key not in active:
                raise ConfigError(f"{key}: not searched by this sweep{did_you_mean(key, active)}")
            name, dist = active[key]
            if not is_in_range(dist, value):
                raise ConfigError(f"{key}: {value} is outside {format_range(dist)}")
            params[name] = match_choice(dist, value)
        return params

    def active_ranges(self, selected: Mapping[str, Any]) -> dict[str, Range]:
        """Return the range of each key that a trial searches under the selected options of groups, groups first."""
        return {key: dist for key, (_, dist) in self._active_params(selected).items()}

    def iterate_corners(self) -> Iterator[dict[str, Any]]:
        """Yield points that cover every combination of options and, one at a time, both bounds of every range."""
        for selected in self._iterate_options():
            active = self._active_params(selected).items()
            ranges = {key: dist for key, (name, dist) in active if not (name == key and key in selected)}
            corner = selected | {key: range_ends(dist)[0] for key, dist in ranges.items()}
            yield corner
            for key, dist in ranges.items():
                yield from ({**corner, key: end} for end in range_ends(dist)[1:])

    def count_points(self) -> int | None:
        """Return the number of points, None if a range is continuous."""
        counts = [1]
        for options in self._iterate_options():
            sizes = [count_values(dist) for key, dist in self.active_ranges(options).items() if key not in options]
            if None in sizes:
                return None
            counts.append(math.prod(size for size in sizes if size is not None))
        return sum(counts[1:])

    def iterate_points(self) -> Iterator[dict[str, Any]]:
        """Yield every point, by key.

        Raises:
            ConfigError: If a range is continuous.
        """
        for options in self._iterate_options():
            ranges = {key: dist for key, dist in self.active_ranges(options).items() if key not in options}
            values = [list_range_values(key, dist) for key, dist in ranges.items()]
            yield from (options | dict(zip(ranges, point, strict=True)) for point in itertools.product(*values))

    def list_grid_points(self) -> list[dict[str, Any]]:
        """Return every combination of values, the last key varying fastest.

        Raises:
            ConfigError: If a range is continuous or conditional, or there are too many combinations.
        """
        if self.conditional:
            raise ConfigError("sweep.conditional: not supported by a grid, which runs every combination")
        values = {key: list_range_values(key, dist) for key, dist in self.ranges.items()}
        n_points = math.prod(map(len, values.values()))
        if n_points > MAX_GRID_POINTS:
            raise ConfigError(
                f"{', '.join(values)}: the grid has {n_points} combinations; list at most {MAX_GRID_POINTS}, "
                "or sample them with hydra/sweeper/sampler=random"
            )
        return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]

    def format_ranges(self) -> dict[str, str]:
        """Return every range in Hydra's sweep syntax, by Optuna's parameter name."""
        texts = {key: format_range(dist) for key, dist in self.ranges.items()}
        for condition, ranges in self.conditional.items():
            texts |= {f"{key}{CONDITION_SEPARATOR}{condition}": format_range(dist) for key, dist in ranges.items()}
        return texts

    @property
    def searched_keys(self) -> set[str]:
        """Every key that some trial may search."""
        return set(self.ranges).union(*self.conditional.values())

    @property
    def is_conditional(self) -> bool:
        """Return whether two trials may search different keys."""
        return any(condition.partition("=")[0] in self.ranges for condition in self.conditional)

    def _iterate_options(self) -> Iterator[dict[str, Any]]:
        """Yield every combination of options of the searched groups."""
        groups = {key: range_ends(dist) for key, dist in self.ranges.items() if key in self.group_options}
        for options in itertools.product(*groups.values()):
            yield dict(zip(groups, options, strict=True))

    def _active_params(self, selected: Mapping[str, Any]) -> dict[str, tuple[str, Range]]:
        """Return Optuna's name and the range of each key searched under the selected options, groups first."""
        options = {**self.group_options, **selected}
        keys = sorted(self.ranges, key=lambda key: key not in self.group_options)
        active = {key: (key, self.ranges[key]) for key in keys}
        for condition, ranges in self.conditional.items():
            group, _, option = condition.partition("=")
            if options.get(group) == option:
                suffix = f"{CONDITION_SEPARATOR}{condition}" if group in self.ranges else ""
                active |= {key: (f"{key}{suffix}", dist) for key, dist in ranges.items()}
        return active


def read_search_space(
    ranges: Sequence[str], conditional: Mapping[str, Mapping[str, Any]], group_options: Mapping[str, str]
) -> SearchSpace:
    """Read a search space from overrides such as "lr=log(1e-4,1e-2)", and ranges by key for each condition.

    Raises:
        ConfigError: If a range is invalid, is no range, or is given for a condition that no trial can meet.
    """
    found, constants, _ = parse_ranges(ranges)
    if constants:
        raise ConfigError(f"{next(iter(constants))}: one value, not a range")
    found_conditional = {}
    for condition, inner in conditional.items():
        check_condition(condition, group_options)
        if not isinstance(inner, Mapping):
            raise ConfigError(f"sweep.conditional.{condition}: {inner!r} must be a mapping of keys to ranges")
        found_conditional[condition], constants, _ = parse_ranges([f"{key}={value}" for key, value in inner.items()])
        if constants:
            raise ConfigError(f"sweep.conditional.{condition}: {', '.join(constants)} must be a range, not one value")
    for by_key in (found, *found_conditional.values()):
        for key, dist in by_key.items():
            _check_group_range(key, dist, group_options)
    return SearchSpace(found, found_conditional, group_options)


def _read_distributions(texts: Mapping[str, str]) -> dict[str, Range]:
    return {key: cast(Range, json_to_distribution(text)) for key, text in texts.items()}


def baseline_values(space: SearchSpace, current: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the `current` values of the program as a point of the space, and its settings that are out of range.

    A searched key that is not in `current` has an unknown value: the point lacks it, and it counts as out of range.
    """
    ranges = space.active_ranges(space.group_options)
    values = {key: match_choice(dist, current[key]) for key, dist in ranges.items() if key in current}
    outside = [
        f"{key}={values[key]}" if key in values else key
        for key, dist in ranges.items()
        if key not in values or not is_in_range(dist, values[key])
    ]
    return values, outside


def config_key(param_name: str) -> str:
    """Return the config key of an Optuna parameter, whose name may carry a condition."""
    return param_name.partition(CONDITION_SEPARATOR)[0]


def parse_choice(value: Any) -> Any:
    """Return the value that Hydra parses from a choice, one of the values of a categorical range.

    A text that Hydra cannot parse, such as a choice of another program may be, is its own value.
    """
    with suppress(HydraException):
        return OverridesParser.create().parse_override(f"key={value}").value() if isinstance(value, str) else value
    return value


def is_in_range(dist: Range, value: Any) -> bool:
    """Return whether a range contains `value`; choices are compared after parsing."""
    if isinstance(dist, CategoricalDistribution):
        return bool(_matching_choices(dist, value))
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return False
    has_right_type = isinstance(dist, FloatDistribution) or value == int(value)
    return has_right_type and is_in_distribution(dist, value)


def match_choice(dist: Range, value: Any) -> Any:
    """Return the choice that parses to `value`: "[1,2]" for [1, 2]. Return `value` itself where there is none."""
    choices = _matching_choices(dist, value) if isinstance(dist, CategoricalDistribution) else []
    return choices[0] if choices else value


def range_ends(dist: Range) -> tuple[Any, ...]:
    """Return both bounds of a range, or all of its choices."""
    return tuple(dist.choices) if isinstance(dist, CategoricalDistribution) else (dist.low, dist.high)


def format_range(dist: Range) -> str:
    """Return a range in Hydra's sweep syntax."""
    if isinstance(dist, CategoricalDistribution):
        return ",".join(str(choice) for choice in dist.choices)
    is_integer = isinstance(dist, IntDistribution)
    if dist.step and not (is_integer and dist.step == 1):
        # Hydra excludes the upper bound. Decimal keeps 0.2 + 0.1 from printing as 0.30000000000000004.
        return f"range({dist.low},{Decimal(str(dist.high)) + Decimal(str(dist.step))},{dist.step})"
    text = f"interval({dist.low},{dist.high})"
    text = f"tag(log,{text})" if dist.log else text
    return f"int({text})" if is_integer else text


def _matching_choices(dist: CategoricalDistribution, value: Any) -> list[Any]:
    """Return the choices that parse to the same value. 1 equals 1.0, but not true."""
    value = parse_choice(value)
    parsed = [(choice, parse_choice(choice)) for choice in dist.choices]
    return [choice for choice, one in parsed if one == value and isinstance(one, bool) == isinstance(value, bool)]


def _check_group_range(key: str, dist: Range, group_options: Mapping[str, str]) -> None:
    is_named = isinstance(dist, CategoricalDistribution) and all(isinstance(option, str) for option in dist.choices)
    if key in group_options and not is_named:
        raise ConfigError(
            f"{key}={format_range(dist)}: a config group takes option names, not numbers; "
            f"list them: {key}={group_options[key]},…"
        )


def check_condition(condition: str, group_options: Mapping[str, str]) -> None:
    """Check that a condition is `group=option`, with a group that exists."""
    group, _, option = condition.partition("=")
    if not option:
        raise ConfigError(f"sweep.conditional: {condition!r} must be group=option, such as optimizer=muon")
    if group not in group_options:
        raise ConfigError(
            f"sweep.conditional.{condition}: no config group {group!r}{did_you_mean(group, group_options)}"
        )


def list_range_values(key: str, dist: Range) -> list[Any]:
    """Return all values of a range.

    Raises:
        ConfigError: If it is continuous; the message names `key`.
    """
    size = count_values(dist)
    if size is None:
        raise ConfigError(
            f"{key}: a grid cannot run {format_range(dist)}, which has no steps; "
            "list values, or use range(low,high,step)"
        )
    return [value_at(dist, index) for index in range(size)]


def count_values(dist: Range) -> int | None:
    """Return the number of values of a range, None if it is continuous."""
    if isinstance(dist, CategoricalDistribution):
        return len(dist.choices)
    return None if dist.step is None else round((dist.high - dist.low) / dist.step) + 1


def value_at(dist: Range, index: int) -> Any:
    """Return the value of a range with this index; the range is not continuous."""
    if isinstance(dist, CategoricalDistribution):
        return dist.choices[index]
    assert dist.step is not None
    if isinstance(dist, IntDistribution):
        return dist.low + index * dist.step
    return float(Decimal(str(dist.low)) + index * Decimal(str(dist.step)))  # so that 0.1 + 2 * 0.1 is 0.3
