"""Samplers and pruners by name."""

from collections.abc import Mapping
from typing import Any, cast

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from harness.core.errors import ConfigError, did_you_mean
from harness.core.paths import config_dir
from harness.sweep.study import curve_config as _  # noqa: F401  # it and what it imports store the samplers

SAMPLER_GROUP = "hydra/sweeper/sampler"


def read_pruner_node(key: str, name: str) -> Mapping[str, Any]:
    """Return the component of a pruner of ours.

    Raises:
        ConfigError: If there is no such name; the message begins with `key`.
    """
    folder = config_dir() / "pruner"
    names = sorted(path.stem for path in folder.glob("*.yaml"))
    _check_name(key, name, names)
    return _to_plain(OmegaConf.load(folder / f"{name}.yaml"))


def read_sampler_node(key: str, name: str) -> Mapping[str, Any]:
    """Return the component of a sampler, ours or of hydra-optuna-sweeper.

    Raises:
        ConfigError: If there is no such name; the message begins with `key`.
    """
    store = ConfigStore.instance()
    names = sorted(file.removesuffix(".yaml") for file in store.list(SAMPLER_GROUP))
    _check_name(key, name, names)
    return _to_plain(store.load(f"{SAMPLER_GROUP}/{name}.yaml").node)


def _check_name(key: str, name: str, names: list[str]) -> None:
    if name not in names:
        raise ConfigError(f"{key}: {name}: must be one of {', '.join(names)}{did_you_mean(name, names)}")


def _to_plain(node: Any) -> Mapping[str, Any]:
    return cast(Mapping[str, Any], OmegaConf.to_container(OmegaConf.create(node), resolve=True))
