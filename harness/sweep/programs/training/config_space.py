"""The search space of our own configuration, and how the config of a trial is composed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.alternatives import read_given_settings, replace_alternatives
from harness.config.compose import NON_TRAINING_KEYS, compose_config, list_left_out
from harness.config.errors import describe_unknown_key, explain_error
from harness.config.group_options import drop_needless_deletions
from harness.config.hydra_internals import is_range
from harness.config.option_values import LeftOut
from harness.config.overrides import SWEEP_ONLY_KEYS
from harness.core.errors import ConfigError
from harness.sweep.space.range_syntax import parse_ranges
from harness.sweep.space.search_space import SearchSpace, format_range, parse_choice, read_search_space
from harness.sweep.study.spec import StudySpec

TRIAL_DEFAULTS = ("observers=trial",)
"""Overrides of every trial, with the lowest precedence."""


@dataclass(frozen=True)
class ConfigSpace(SearchSpace):
    """Ranges of a sweep, and the overrides that all its trials share.

    `fixed` are those of the command line and `baseline` those of the current config that a range may cover, such as
    those of a resumed run.
    """

    fixed: tuple[str, ...]
    baseline: tuple[str, ...] = ()

    @property
    def current(self) -> tuple[str, ...]:
        """The overrides of the current config, that of a trial without values."""
        return (*self.baseline, *self.fixed)

    def compose_config(self, values: Mapping[str, Any], defaults: Sequence[str] = ()) -> DictConfig:
        """Compose the config of a trial that sets `values`; `defaults` are overrides with the lowest precedence.

        Raises:
            ConfigError: If a key or an option does not exist.
        """
        groups, overrides = self._group_overrides(values), self._list_overrides(values, defaults)
        try:
            cfg = compose_config(overrides)
        except (HydraException, ValueError) as error:  # ValueError: a group set to null
            raise ConfigError(explain_error(error, overrides)) from error
        for key, value in values.items():
            if key not in self.group_options:
                _update_config(cfg, key, parse_choice(value), groups, self.fixed)
        replace_alternatives(cfg, {**read_given_settings(self.fixed), **values})
        return cfg

    def list_left_out(self, values: Mapping[str, Any], defaults: Sequence[str] = ()) -> Sequence[LeftOut]:
        """Return the values of the experiment that are for other options than a trial with `values` has."""
        return list_left_out(self._list_overrides(values, defaults))

    def read_current_values(self, cfg: DictConfig) -> dict[str, Any]:
        """Return the value of each key that a trial with the current options searches in the current config `cfg`."""
        keys = self.active_ranges(self.group_options)
        return {key: self.group_options.get(key, _read_value(cfg, key)) for key in keys}

    def _group_overrides(self, values: Mapping[str, Any]) -> list[str]:
        return [f"{key}={value}" for key, value in values.items() if key in self.group_options]

    def _list_overrides(self, values: Mapping[str, Any], defaults: Sequence[str]) -> list[str]:
        return [*defaults, *drop_needless_deletions(self.current, defaults), *self._group_overrides(values)]


def read_config_space(
    params: Mapping[str, Any],
    arguments: Sequence[str],
    conditional: Mapping[str, Mapping[str, Any]],
    group_options: Mapping[str, str],
) -> ConfigSpace:
    """Read the search space from `hydra.sweeper.params` and the command line, which takes precedence.

    Ranges are in Hydra's sweep syntax.

    Raises:
        ConfigError: If a range is invalid, or is given for a key or condition that cannot be searched.
    """
    given_keys = {argument.partition("=")[0] for argument in arguments}
    overrides = [*(f"{key}={value}" for key, value in params.items() if key not in given_keys), *arguments]
    _, fixed, deleted = parse_ranges(overrides)
    fixed_options = {key: value for key, value in fixed.items() if key in group_options}
    for condition, inner in conditional.items():  # before its keys are looked at
        if isinstance(inner, Mapping):
            conditional = {**conditional, condition: {key: inner[key] for key in inner if key not in given_keys}}
    space = read_search_space(list(filter(is_range, overrides)), conditional, {**group_options, **fixed_options})
    for by_key in (space.ranges, *space.conditional.values()):
        for key, dist in by_key.items():
            if _root_key(key) in (*SWEEP_ONLY_KEYS, *NON_TRAINING_KEYS, "sweeps"):
                message = f"{key} does not affect the result of a run; give it one value"
                raise ConfigError(f"{key}={format_range(dist)}: {message}")
    kept = [f"{key}={value}" for key, value in fixed.items() if _root_key(key) not in SWEEP_ONLY_KEYS]
    values = map(str, read_given_settings(arguments).get("sweep.baseline_values") or ())
    baseline = tuple(override for override in values if override.partition("=")[0] not in fixed)
    return ConfigSpace(space.ranges, space.conditional, space.group_options, (*kept, *deleted), baseline)


def rebuild_config_space(spec: StudySpec, program: Mapping[str, Any]) -> ConfigSpace:
    """Return the search space of a study over our own training."""
    space = spec.build_search_space()
    return ConfigSpace(
        space.ranges, space.conditional, space.group_options, tuple(program["fixed"]), tuple(program["baseline"])
    )


def _read_value(cfg: DictConfig, key: str) -> Any:
    value = OmegaConf.select(cfg, key.lstrip("+"))
    return OmegaConf.to_container(value) if isinstance(value, DictConfig | ListConfig) else value


def _update_config(cfg: DictConfig, key: str, value: Any, group_overrides: Sequence[str], fixed: Sequence[str]) -> None:
    if not isinstance(value, dict) and isinstance(OmegaConf.select(cfg, key.lstrip("+")), DictConfig):
        raise ConfigError(f"{key}: a section with several keys, not a value; search one of its keys")
    try:
        OmegaConf.update(cfg, key.lstrip("+"), value, force_add=key.startswith("+"))
    except OmegaConfBaseException as error:
        hint = describe_unknown_key(key, [*fixed, *group_overrides])
        if group_overrides:
            hint = f" under {' '.join(group_overrides)}; put ranges for some options only into sweep.conditional{hint}"
        raise ConfigError(f"{key}: no such key{hint}") from error


def _root_key(key: str) -> str:
    return key.lstrip("+").partition(".")[0]
