"""The user's own function that suggests further values of a trial: hydra.sweeper.custom_search_space."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optuna
from omegaconf import DictConfig
from optuna.samplers import RandomSampler
from optuna.trial import Trial

from harness.config.overrides import read_override_key
from harness.config.targets import import_component
from harness.core.errors import ConfigError
from harness.sweep.space.search_space import SearchSpace, config_key
from harness.sweep.study.trial_attrs import OWN_TRIAL_ATTRS

SEARCH_SPACE_KEY = ("hydra", "sweeper", "custom_search_space")


class CustomSpaceError(ValueError):
    """The user's function raised, or suggested a value that it must not."""


def load_custom_space(name: str, cfg: DictConfig, fixed: Sequence[str]) -> Callable[[Trial], None]:
    """Return a function that suggests further values of a trial as the user's function `name` does.

    It raises CustomSpaceError if the function raises, or suggests a key that one of the overrides `fixed` sets.
    """
    return partial(_suggest_custom_values, import_component(SEARCH_SPACE_KEY, name), cfg, fixed)


def check_custom_space(
    name: str,
    space: SearchSpace,
    cfg: DictConfig,
    fixed: Sequence[str],
    check_values: Callable[[Mapping[str, Any]], object],
) -> None:
    """Let the user's function `name` extend one random trial, which is not kept, and check the values of that.

    Raises:
        ConfigError: If the function fails, suggests a key that `fixed` sets, or `check_values` raises it.
    """
    extend = load_custom_space(name, cfg, fixed)
    trial = optuna.create_study(sampler=RandomSampler(seed=0)).ask()
    values = space.suggest_values(trial)
    try:
        extend(trial)
        suggested = {key: value for param, value in trial.params.items() if (key := config_key(param)) not in values}
        check_values({**values, **suggested})
    except (CustomSpaceError, ConfigError) as error:
        raise ConfigError(f"{'.'.join(SEARCH_SPACE_KEY)}: {name}: {error}") from error


def _suggest_custom_values(
    extend: Callable[[DictConfig, Trial], None], cfg: DictConfig, fixed_overrides: Sequence[str], trial: Trial
) -> None:
    """Call the user's function, which finds the fixed values where hydra-optuna-sweeper has them: in `user_attrs`."""
    fixed = {read_override_key(one): one for one in fixed_overrides if "=" in one}
    for key in fixed.keys() - OWN_TRIAL_ATTRS:
        trial.set_user_attr(key, fixed[key].partition("=")[2])
    try:
        extend(cfg.copy(), trial)
    except OSError:  # of the study's storage
        raise
    except Exception as error:
        raise CustomSpaceError(f"{type(error).__name__}: {error}") from error
    for key in map(config_key, trial.params):
        if override := fixed.get(key.lstrip("+")):
            raise CustomSpaceError(f"suggests {key}, which {override} fixes; leave one of them out")
