"""Refuses a sweep that could not run, or whose trials could not be compared, before there is a study."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from optuna.distributions import BaseDistribution, CategoricalDistribution

from harness.config import validate
from harness.explain import ConfigError
from harness.runner import Prepared, prepare
from harness.sweeping.space import Space, contains, parsed

MEANINGS = {
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
class Checked:
    """`warmup_share` is the longest in the space; `run` is of the present config."""

    run: Prepared
    warmup_share: float
    notices: tuple[str, ...]


def check_space(space: Space, allow: Sequence[str]) -> Checked:
    """Build the present config and the ends of every range as a run would; ConfigError for the first that cannot work
    or that spends other tokens, or reads other data, than the present config."""
    for key in sorted(space.keys):
        _check_meaning(key, allow)
    present = prepare(_unweighted(space, {}))
    warmup_share = _warmup_share(present)
    for values in space.corners():
        said = " ".join(f"{key}={value}" for key, value in values.items())
        try:
            cfg = _unweighted(space, values)
            validate(cfg)
            corner = prepare(cfg)
        except ConfigError as error:
            raise ConfigError(f"{error} (the space reaches {said})") from error
        if not allow:
            _check_comparable(present, corner, said)
        warmup_share = max(warmup_share, _warmup_share(corner))
    return Checked(present, warmup_share, tuple(_late(warmup_share)))


def present_values(space: Space, cfg: DictConfig) -> tuple[dict[str, Any], list[str]]:
    """The present config as a point of the space, and what of it lies outside, in words."""
    held = space.under(space.choices)
    values = {key: _choice(found, _present(space, cfg, key)) for key, found in held.items()}
    outside = [f"{key}={values[key]}" for key, found in held.items() if not contains(found, values[key])]
    return values, outside


def _unweighted(space: Space, values: Mapping[str, Any]) -> DictConfig:
    """A trial that needs no base: what may be refused does not depend on the weights to start from."""
    cfg = space.compose(values)
    if cfg.start.get("kind") == "warm":
        cfg.start.kind, cfg.start.source = "scratch", None
    return cfg


def _check_meaning(key: str, allow: Sequence[str]) -> None:
    for part, meaning in MEANINGS.items():
        is_part = f"{key}.".startswith(f"{part}.") or f"{part}.".startswith(f"{key}.")
        if is_part and key not in allow:
            raise ConfigError(
                f"{key}: it decides {meaning}, so trials that differ in it cannot be compared; "
                f"fix it, or sweep it on purpose with 'sweep.allow=[{key}]'"
            )


def _check_comparable(present: Prepared, corner: Prepared, said: str) -> None:
    step = max(prepared.tokens / prepared.total_steps for prepared in (present, corner))
    if abs(corner.tokens - present.tokens) > step:
        raise ConfigError(
            f"{said}: this trial would train on {corner.tokens:.0f} tokens and the present config on "
            f"{present.tokens:.0f}; give all the same with loop.max_tokens={present.tokens:.0f} loop.max_steps=null, "
            f"or compare them all the same with 'sweep.allow=[{said.partition('=')[0]}]'"
        )
    if corner.digest != present.digest:
        raise ConfigError(f"{said}: this trial would read other data than the present config, so the losses differ")


def _late(warmup_share: float) -> Iterator[str]:
    if warmup_share > 0.5:
        yield (
            f"the longest warm-up of the space is {warmup_share:.0%} of a run, and nothing is pruned before it ends; "
            "a shorter one would save more"
        )


def _warmup_share(prepared: Prepared) -> float:
    return min(1.0, prepared.warmup_steps / prepared.total_steps)


def _present(space: Space, cfg: DictConfig, key: str) -> Any:
    if key in space.choices:
        return space.choices[key]
    value = OmegaConf.select(cfg, key.lstrip("+"))
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value


def _choice(found: BaseDistribution, value: Any) -> Any:
    """The choice that stands for `value`, where there is one; 1 and 1.0 are the same, True and 1 are not."""
    if not isinstance(found, CategoricalDistribution):
        return value
    return next((choice for choice in found.choices if _is_same(parsed(choice), value)), value)


def _is_same(one: Any, other: Any) -> bool:
    """1 and 1.0 are, 1 and true are not."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
