"""Refuses a sweep that could not run, or whose trials could not be compared, before there is a study."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from optuna.distributions import FloatDistribution

from harness.config.errors import ConfigError, did_you_mean
from harness.config.schema import contains_key, validate_config
from harness.run.dry_run import DryRun, dry_run
from harness.sweep.space.search_space import SearchSpace, is_in_range, match_choice

OBJECTIVE_KEYS = {
    "task": "what is learnt",
    "tokenizer": "the tokens that the loss is an average over",
    "data": "the data, and with it the validation loss",
    "loop.max_steps": "the token budget",
    "loop.epochs": "the token budget",
    "loop.max_tokens": "the token budget",
    "loop.evals": "how many evaluations the best is taken from",
    "loop.eval_every": "how many evaluations the best is taken from",
}
"""What a key decides of the objective, so that trials that differ in it cannot be compared."""


@dataclass(frozen=True)
class SpaceCheck:
    """`warmup_share` is the longest in the space; the notices are for the user."""

    warmup_share: float
    notices: tuple[str, ...]


def check_search_space(space: SearchSpace, allow: Sequence[str]) -> SpaceCheck:
    """Build the present config and the ends of every range as a run would; ConfigError for the first that cannot work
    or that spends other tokens, or reads other data, than the present config."""
    _check_allowed_keys(space, allow)
    for key in sorted(space.searched_keys):
        _check_objective_key(key, allow)
    present = prepare_from_scratch(space.compose_config({}))
    warmup_share = _warmup_share(present)

    def tried(values: Mapping[str, Any]) -> DryRun:
        corner = prepare_from_scratch(space.compose_config(values))
        if not allow:
            _check_comparable(present, corner)
        return corner

    for values in space.iterate_corners():
        try:
            warmup_share = max(warmup_share, _warmup_share(tried(values)))
        except ConfigError as error:
            least = _find_minimal_point(space, values, partial(_find_error, tried), str(error))
            raise ConfigError(f"{error} ({_describe_point(space, least, partial(_find_error, tried))})") from error
    return SpaceCheck(warmup_share, (*_late(warmup_share), *_find_unused_conditions(space)))


def baseline_values(space: SearchSpace, cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The present config as a point of the space, and what of it lies outside, in words."""
    held = space.active_ranges(space.choices)
    values = {key: match_choice(found, _baseline_value(space, cfg, key)) for key, found in held.items()}
    outside = [f"{key}={values[key]}" for key, found in held.items() if not is_in_range(found, values[key])]
    return values, outside


def prepare_from_scratch(cfg: DictConfig, steps: int = 0) -> DryRun:
    """A run of `cfg` made ready without its base: what may be refused, and what a step costs, does not depend on the
    weights to start from."""
    validate_config(cfg)
    cfg = cfg.copy()
    if cfg.start.kind == "warm":
        cfg.start.kind, cfg.start.source = "scratch", None
    return dry_run(cfg, steps)


def _find_error(tried: Callable[[Mapping[str, Any]], DryRun], values: Mapping[str, Any]) -> str:
    try:
        tried(values)
    except ConfigError as error:
        return str(error)
    return ""


def _find_minimal_point(
    space: SearchSpace, values: Mapping[str, Any], refusal: Callable[[Mapping[str, Any]], str], message: str
) -> Mapping[str, Any]:
    """As little of a point as is refused in the same words: its choices, or one key beside them."""
    choices = {key: value for key, value in values.items() if key in space.choices}
    points = [choices, *({**choices, key: values[key]} for key in values if key not in choices)]
    return next((point for point in points if refusal(point) == message), values)


def _describe_point(space: SearchSpace, point: Mapping[str, Any], refusal: Callable[[Mapping[str, Any]], str]) -> str:
    """A point in words, and how to write a range of whole numbers where it is refused for being none."""
    said = "found at " + " ".join(f"{key}={value}" for key, value in point.items())
    key = next(reversed(point))
    found = space.active_ranges(point)[key]
    if not isinstance(found, FloatDistribution) or found.step or refusal({**point, key: math.ceil(point[key])}):
        return said
    low, high = math.ceil(found.low), math.floor(found.high)
    whole = f"tag(log,int(interval({low},{high})))" if found.log else f"int(interval({low},{high}))"
    return f"{said}; an interval is of decimals, for whole numbers write {key}={whole}"


def _check_allowed_keys(space: SearchSpace, allow: Sequence[str]) -> None:
    for name in allow:
        if not any(contains_key(name, key) for key in space.searched_keys):
            raise ConfigError(f"sweep.allow: {name!r} is not searched{did_you_mean(name, space.searched_keys)}")


def _find_unused_conditions(space: SearchSpace) -> Iterator[str]:
    """Conditional ranges of a choice that no trial makes; ConfigError for one that cannot be made."""
    for where in space.conditional:
        group, _, choice = where.partition("=")
        made = space.ranges[group].choices if group in space.ranges else (space.choices[group],)
        if choice not in made:
            space.compose_config({group: choice})
            yield f"sweep.conditional.{where} is of no trial's: {group} is {' or '.join(made)}"


def _check_objective_key(key: str, allow: Sequence[str]) -> None:
    for part, meaning in OBJECTIVE_KEYS.items():
        if (contains_key(part, key) or contains_key(key, part)) and not any(contains_key(name, key) for name in allow):
            raise ConfigError(
                f"{key}: it decides {meaning}, so trials that differ in it cannot be compared; "
                f"fix it, or sweep it on purpose with 'sweep.allow=[{key}]'"
            )


def _check_comparable(present: DryRun, corner: DryRun) -> None:
    anyhow = "or name the key in sweep.allow to compare them all the same"
    step = max(one.tokens / one.total_steps for one in (present, corner))
    if abs(corner.tokens - present.tokens) > step:
        raise ConfigError(
            f"a trial would train on {corner.tokens:.0f} tokens and the present config on {present.tokens:.0f}; "
            f"give all the same with loop.max_tokens={present.tokens:.0f} loop.max_steps=null, {anyhow}"
        )
    if corner.digest != present.digest:
        raise ConfigError(f"a trial would read other data than the present config; search no data, {anyhow}")


def _late(warmup_share: float) -> Iterator[str]:
    if warmup_share > 0.5:
        yield (
            f"the longest warm-up of the space is {warmup_share:.0%} of a run, and nothing is pruned before it ends; "
            "a shorter one would save more"
        )


def _warmup_share(run: DryRun) -> float:
    return min(1.0, run.warmup_steps / run.total_steps)


def _baseline_value(space: SearchSpace, cfg: DictConfig, key: str) -> Any:
    if key in space.choices:
        return space.choices[key]
    value = OmegaConf.select(cfg, key.lstrip("+"))
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value
