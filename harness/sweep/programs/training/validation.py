"""Reject sweeps that cannot run, or whose trials would not be comparable, before a study is created."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig
from optuna.distributions import FloatDistribution

from harness.config.compose import contains_key
from harness.config.validation import validate_config
from harness.core.errors import ConfigError, did_you_mean
from harness.core.objective_keys import OBJECTIVE_SECTIONS, is_objective_key
from harness.run.dry_run import DryRun, dry_run
from harness.run.initial_weights import has_pretrained_weights
from harness.run.resume import MisfitError
from harness.sweep.programs.training.config_space import ConfigSpace
from harness.sweep.space.search_space import range_ends

# What each key changes about the objective. Trials that differ in one of them cannot be compared.
OBJECTIVE_KEYS = {
    **OBJECTIVE_SECTIONS,
    "loop.max_steps": "the token budget",
    "loop.epochs": "the token budget",
    "loop.max_tokens": "the token budget",
    "loop.evals": "how many evaluations the best is taken from",
    "loop.eval_every": "how many evaluations the best is taken from",
}
LONG_WARMUP_SHARE = 0.5
FIT_ANY_CHECKPOINT = ("loop", "schedule", "batch", "seed")
"""Sections that decide neither the shapes of the weights nor those of the moments."""


@dataclass(frozen=True)
class SpaceCheck:
    """The most that a run in the space takes, its warm-up as a share of the run, and the share that rungs follow;
    digests of what the current config reads; and notes for the user."""

    warmup_share: float
    rung_start: float
    checkpoint_bytes: int
    run_tokens: int
    dataset: Mapping[str, str]
    notices: tuple[str, ...]


def check_search_space(space: ConfigSpace, allow: Sequence[str]) -> SpaceCheck:
    """Dry-run the current config and the bounds of every range.

    `allow` are keys that may be searched although they change the objective.

    Raises:
        ConfigError: If a config cannot run, or uses other data or another number of tokens than the current one.
    """
    check_searched_keys(space, allow)
    cfg = space.compose_config({})
    current = dry_run_from_scratch(cfg)

    def check_point(values: Mapping[str, Any]) -> DryRun:
        corner = dry_run_from_scratch(space.compose_config(values))
        if all(contains_key("task", name) for name in allow):  # they change neither the data nor the tokens
            _check_comparable(current, corner)
        return corner

    built = [current]
    for values in space.iterate_corners():
        try:
            built.append(check_point(values))
        except ConfigError as error:
            raise ConfigError(f"{error} ({_describe_failure(space, values, check_point, str(error))})") from error
    warmup_share = max(map(_warmup_share, built))
    notices = [*_find_unused_conditions(space), *dict.fromkeys(notice for run in built for notice in run.notices)]
    if warmup_share > LONG_WARMUP_SHARE:
        notices.append(
            f"the longest warm-up in the space is {warmup_share:.0%} of a run, and trials are not pruned before it "
            "ends; a shorter warm-up would let bad trials end sooner"
        )
    run_tokens, checkpoint_bytes = max(run.tokens for run in built), max(run.checkpoint_bytes for run in built)
    rung_start = 0.0 if has_pretrained_weights(cfg) else _find_rung_start(built[1:])
    return SpaceCheck(warmup_share, rung_start, checkpoint_bytes, run_tokens, current.dataset, tuple(notices))


def check_searched_keys(space: ConfigSpace, allow: Sequence[str]) -> None:
    """Check that the searched keys exist, and that none changes the objective, except those in `allow`.

    Raises:
        ConfigError: If one does or is unknown, or if a key in `allow` is not searched.
    """
    for name in allow:
        if not any(contains_key(name, key) for key in space.searched_keys):
            raise ConfigError(f"sweep.allow: {name!r} is not searched{did_you_mean(name, space.searched_keys)}")
    for key in sorted(space.searched_keys):
        _check_objective_key(key, allow)
    space.compose_config(next(space.iterate_corners()))


def find_unusable_options(space: ConfigSpace, groups: Collection[str]) -> dict[str, dict[str, str]]:
    """Return for each of the searched `groups` the options that the current config cannot be built with, and why.

    The current option of a group is not among them: if it cannot be built, nothing can be compared with it.
    """
    unusable: dict[str, dict[str, str]] = {}
    for group in groups:
        for option in range_ends(space.ranges[group]):
            try:
                if option != space.group_options[group]:
                    dry_run_from_scratch(space.compose_config({group: option}))
            except ConfigError as error:
                unusable.setdefault(group, {})[option] = str(error)
    return unusable


def find_misfit_keys(space: ConfigSpace, keys: Collection[str]) -> dict[str, str]:
    """Return those of the searched `keys` with which the checkpoint of a resumed run does not fit, and why."""
    misfits: dict[str, str] = {}
    for key in keys:
        if key.partition(".")[0] not in FIT_ANY_CHECKPOINT and key not in space.group_options:
            for value in range_ends(space.ranges[key]):
                try:
                    dry_run_from_scratch(space.compose_config({key: value}))
                except MisfitError as error:
                    misfits[key] = str(error)
                    break
                except ConfigError:  # reported when the bounds are built
                    break
    return misfits


def dry_run_from_scratch(cfg: DictConfig, timed_steps: int = 0) -> DryRun:
    """Dry-run `cfg` without the weights it would start from: they change neither its validity nor its cost."""
    validate_config(cfg)
    cfg = cfg.copy()
    if cfg.start.kind == "warm":
        cfg.start.kind, cfg.start.source = "scratch", None
    return dry_run(cfg, timed_steps)


def _describe_failure(
    space: ConfigSpace, values: Mapping[str, Any], check_point: Callable[[Mapping[str, Any]], DryRun], message: str
) -> str:
    """Name the fewest settings that fail with `message`, and suggest an integer range where that would help."""

    def find_error(point: Mapping[str, Any]) -> str:
        try:
            check_point(point)
        except ConfigError as error:
            return str(error)
        return ""

    options = {key: value for key, value in values.items() if key in space.group_options}
    candidates = [options, *({**options, key: values[key]} for key in values if key not in options)]
    point = next((point for point in candidates if find_error(point) == message), values)
    text = "found at " + " ".join(f"{key}={value}" for key, value in point.items())
    key = list(point)[-1]
    dist = space.active_ranges(point)[key]
    if not isinstance(dist, FloatDistribution) or dist.step or find_error({**point, key: math.ceil(point[key])}):
        return text
    interval = f"int(interval({math.ceil(dist.low)},{math.floor(dist.high)}))"
    integers = f"tag(log,{interval})" if dist.log else interval
    return f"{text}; interval() yields decimals, for whole numbers write {key}={integers}"


def _find_unused_conditions(space: ConfigSpace) -> Iterator[str]:
    """Yield a note for each condition that no trial meets, after checking that its option exists."""
    for condition in space.conditional:
        group, _, option = condition.partition("=")
        options = range_ends(space.ranges[group]) if group in space.ranges else (space.group_options[group],)
        if option not in options:
            space.compose_config({group: option})
            yield f"sweep.conditional.{condition} applies to no trial: {group} is {' or '.join(map(str, options))}"


def _check_objective_key(key: str, allow: Sequence[str]) -> None:
    for part, meaning in OBJECTIVE_KEYS.items():
        if part in OBJECTIVE_SECTIONS and not is_objective_key(key):
            continue
        if (contains_key(part, key) or contains_key(key, part)) and not any(contains_key(name, key) for name in allow):
            raise ConfigError(
                f"{key}: it determines {meaning}, so trials that differ in it cannot be compared; "
                f"fix it, or sweep it anyway with 'sweep.allow=[{key}]'"
            )


def _check_comparable(current: DryRun, corner: DryRun) -> None:
    """Compare tokens, to within one step, and data."""
    tokens_per_step = max(run.tokens / run.total_steps for run in (current, corner))
    if abs(corner.tokens - current.tokens) > tokens_per_step:
        raise ConfigError(
            f"a trial would train on {corner.tokens:.0f} tokens and the current config on {current.tokens:.0f}; "
            f"set loop.max_tokens={current.tokens:.0f} loop.max_steps=null, or add the key to sweep.allow"
        )
    if corner.digest != current.digest:
        raise ConfigError(
            "a trial would read other data than the current config; do not search data settings, "
            "or add the key to sweep.allow"
        )


def _find_rung_start(runs: Sequence[DryRun]) -> float:
    """Return the share of a run that the longest warm-up takes, if warm-ups differ; else 0.

    From random weights, the values of runs during their warm-up tell its length rather than their end.
    """
    shares = {_warmup_share(run) for run in runs}
    return max(shares) if len(shares) > 1 else 0.0


def _warmup_share(run: DryRun) -> float:
    return min(1.0, run.effective.warmup_steps / run.total_steps)
