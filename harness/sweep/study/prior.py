"""Points for the first trials of a study: the best trials of an earlier study, or LRs of the band of a range test."""

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.core.errors import ConfigError
from harness.record.lr_range_file import IGNORED_GROUPS
from harness.record.sweep_files import read_setting_key
from harness.sweep.hydra_internals import Range
from harness.sweep.optuna_internals import UnitCube
from harness.sweep.space.search_space import (
    SearchSpace,
    format_range,
    is_in_range,
    list_range_values,
    match_choice,
    parse_choice,
)
from harness.sweep.study.distinct_sampler import Identity, identify_point
from harness.sweep.study.sampler import round_in_range
from harness.sweep.study.trial_attrs import PRIOR, STUDY_SPEC, trial_values

NEAR = 0.02
"""Two points are copies of each other if no number differs by more than this share of its range, and no choice."""
LR_KEY = re.compile(r"(?:.*[._-])?(?:lr|learning[_-]?rate)", re.IGNORECASE)
MAIN_LR_KEY = "optimizer.lr"  # which a range test raises; other LRs keep their ratio to it
OPTIMIZER_GROUP = "optimizer"  # each option has LRs of its own


@dataclass(frozen=True)
class PriorPoint:
    """Values by key of some searched keys, and where they come from, as plain data."""

    values: Mapping[str, Any]
    origin: Mapping[str, Any]


def rank_trials(study: Study) -> list[FrozenTrial]:
    """Return the completed trials, the best first; with several objectives the Pareto front, by the first objective."""
    is_single = len(study.directions) == 1
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_single else study.best_trials
    sign = -1 if study.directions[0] == StudyDirection.MAXIMIZE else 1
    finite = [trial for trial in trials if all(map(math.isfinite, trial.values))]
    return sorted(finite, key=lambda trial: (sign * trial.values[0], trial.number))


def choose_points(space: SearchSpace, earlier: Study, count: int, known: Collection[Identity] = ()) -> list[PriorPoint]:
    """Return up to `count` points from the best trials of an earlier study, the best first.

    A point has the keys that both studies search, where the value is in today's range. Trials with options that this
    sweep does not have come last. Copies are left out, of each other and of the points `known`, which run anyway.

    Raises:
        ConfigError: If there is none; the message is the reason.
    """
    ranked, earlier_space = rank_trials(earlier), _read_space(earlier)
    if not ranked:
        raise ConfigError("none of its trials has completed with a finite value")
    searched = {read_setting_key(key) for key in space.searched_keys}
    shared = {read_setting_key(key) for trial in ranked for key in trial_values(trial)} & searched
    if not shared:
        own = sorted({read_setting_key(key) for trial in ranked for key in trial_values(trial)})
        raise ConfigError(f"it searched {', '.join(own) or 'nothing'}, this sweep {', '.join(sorted(searched))}")
    points: list[PriorPoint] = []
    n_known = 0
    ranked.sort(key=lambda trial: bool(_match_options(space, earlier_space, trial_values(trial))[1]))
    for trial in ranked:
        values = fit_values(space, earlier_space, trial_values(trial))
        if not values or len(points) == count:
            continue
        if identify_point(space.to_trial_params(values)) in known:
            n_known += 1
        elif not any(_are_copies(space, values, point.values) for point in points):
            points.append(PriorPoint(values, {"trial": trial.number}))
    if not points and n_known:
        raise ConfigError("its only usable trial is one that this sweep runs anyway")
    if not points:
        raise ConfigError(f"no completed trial has a value of {', '.join(sorted(shared))} that this sweep may take")
    return points


def fit_values(space: SearchSpace, earlier: SearchSpace, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those values of an earlier trial that a trial of `space` may have, by today's keys.

    What belongs to the option of a group, such as the LR of an optimizer, is taken only together with this option, and
    never for another one. An option that the earlier study did not search is known from its current configuration.
    """
    given = {read_setting_key(key): value for key, value in values.items()}
    chosen, unlike = _match_options(space, earlier, given)
    fitting: dict[str, Any] = {}
    for key, dist in space.active_ranges(chosen).items():
        value = given.get(read_setting_key(key))
        is_free = not any(_belongs_to(key, group, space, earlier) for group in unlike)
        if key not in space.group_options and value is not None and is_free and is_in_range(dist, value):
            fitting[key] = _convert(dist, value)
    needed = {
        group: option
        for group, option in chosen.items()
        if group in given or any(_belongs_to(key, group, space, earlier) for key in fitting)
    }
    return {**needed, **fitting}


def _match_options(
    space: SearchSpace, earlier: SearchSpace, given: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """Return the options of searched groups that an earlier trial had, and the groups for which today has another."""
    options = {**earlier.group_options, **given}
    groups = [key for key in space.ranges if key in space.group_options]
    chosen = {
        key: match_choice(space.ranges[key], options[key])
        for key in groups
        if key in options and is_in_range(space.ranges[key], options[key])
    }
    today = {**space.group_options, **dict.fromkeys(groups), **chosen}
    deciding = {OPTIMIZER_GROUP, *_list_deciding_groups(space), *_list_deciding_groups(earlier)}
    unlike = [
        group
        for group in deciding
        if group in today and (today[group] is None or options.get(group, today[group]) != today[group])
    ]
    return chosen, unlike


def _convert(dist: Range, value: Any) -> Any:
    """Return a value in range with the type that Optuna gives it."""
    if isinstance(dist, CategoricalDistribution):
        return match_choice(dist, value)
    return int(value) if isinstance(dist, IntDistribution) else float(value)


def draw_band_points(
    space: SearchSpace, low: float, high: float, count: int, seed: int, digits: int | None
) -> list[PriorPoint]:
    """Return points with LRs of a band: one in each of `count` equal parts on a logarithmic scale, in random order.

    Searched groups keep the current option, for which the band was found.

    Raises:
        ConfigError: If no LR is searched, or none in the band; the message is the reason.
    """
    key, dist = _find_lr_range(space)
    rng = np.random.default_rng([seed, count])
    values = list(_draw_in_band(key, dist, low, high, count, rng))
    if not values:
        raise ConfigError(f"its band from {low:g} to {high:g} is outside {key}={format_range(dist)}")
    if digits is not None and isinstance(dist, FloatDistribution):
        values = [round_in_range(value, dist, digits) for value in values]
    current = {
        group: option
        for group, option in space.group_options.items()
        if group in space.ranges and group not in IGNORED_GROUPS and is_in_range(space.ranges[group], option)
    }
    return [PriorPoint({**current, key: value}, {"lr_band": [low, high]}) for value in values]


def _find_lr_range(space: SearchSpace) -> tuple[str, Range]:
    active = space.active_ranges(space.group_options)
    found = [key for key in active if read_setting_key(key) == MAIN_LR_KEY] or [
        key for key in active if LR_KEY.fullmatch(key)
    ]
    if len(found) != 1:
        problem = f"several LRs are searched ({', '.join(found)})" if found else "no LR is searched"
        raise ConfigError(f"a band of LRs needs one LR, but {problem}")
    return found[0], active[found[0]]


def _draw_in_band(
    key: str, dist: Range, low: float, high: float, count: int, rng: np.random.Generator
) -> Iterator[Any]:
    """Yield LRs of a range between `low` and `high`; of a list or a range with steps, each at most once."""
    if isinstance(dist, FloatDistribution) and dist.step is None:
        low, high = max(low, dist.low), min(high, dist.high)
        if low <= high and low > 0:
            shares = (rng.permutation(count) + rng.random(count)) / count
            yield from (float(min(max(low * (high / low) ** share, low), high)) for share in shares)
        return
    numbers = [(value, parse_choice(value)) for value in list_range_values(key, dist)]
    inside = [value for value, number in numbers if isinstance(number, int | float) and low <= number <= high]
    yield from (inside[index] for index in rng.permutation(len(inside))[:count])


def _read_space(study: Study) -> SearchSpace:
    """Return the search space of a study, without ranges if another program made it."""
    spec = study.user_attrs.get(STUDY_SPEC)
    return SearchSpace.from_json(spec["space"]) if isinstance(spec, Mapping) else SearchSpace({}, {}, {})


def _list_deciding_groups(space: SearchSpace) -> Iterator[str]:
    """Yield the groups whose option decides what a value means."""
    yield from (key for key in space.ranges if key in space.group_options)
    yield from (condition.partition("=")[0] for condition in space.conditional)


def _belongs_to(key: str, group: str, *spaces: SearchSpace) -> bool:
    """Return whether the value of a key is one of the group, or has a range of its own for some option of it."""
    ranges: Sequence[Mapping[str, Any]] = [
        inner for space in spaces for condition, inner in space.conditional.items()
        if condition.partition("=")[0] == group
    ]  # fmt: skip
    return read_setting_key(key).startswith(f"{group.replace('/', '.')}.") or any(key in inner for inner in ranges)


def _are_copies(space: SearchSpace, values: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    if values.keys() != others.keys():
        return False
    active = space.active_ranges(values)
    cube = UnitCube({key: active[key] for key in values})
    return bool(np.abs(cube.encode(values) - cube.encode(others)).max() <= NEAR)


def enqueue_pairs(study: Study, space: SearchSpace, points: Sequence[PriorPoint], source: str) -> None:
    """Enqueue pairs of a trial with the values of a point and one that the sampler proposes.

    They alternate, so that workers in parallel run both kinds. Those that a killed process already enqueued are kept.
    """
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for point in points:
        pairs += [(space.to_trial_params(point.values), {"source": source, **point.origin}), ({}, {})]
    n_enqueued = sum(PRIOR in trial.user_attrs for trial in study.get_trials(deepcopy=False))
    for params, origin in pairs[n_enqueued:]:
        study.enqueue_trial(params, user_attrs={PRIOR: origin})
