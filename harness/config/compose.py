"""Compose the configuration of a run from conf/ and overrides."""

from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.basecontainer import BaseContainer

from harness.core.paths import config_dir

SWEEP_ONLY_KEYS = ("sweep", "pruner", "preflight")
"""Keys that only a sweep reads."""
NON_TRAINING_KEYS = ("observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "expect",
                     "thresholds")  # fmt: skip
"""Keys that do not change the training."""


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of `overrides`, on the search path of the running Hydra application if there is one.

    Results are cached, so that a process sees the same configuration after its files have changed.
    """
    hydra = GlobalHydra.instance()
    return deepcopy(_compose_cached(hydra.config_loader() if hydra.is_initialized() else None, tuple(overrides)))


@lru_cache(maxsize=64)
def _compose_cached(application: ConfigLoader | None, overrides: tuple[str, ...]) -> DictConfig:
    with nullcontext() if application else initialize_config_dir(str(config_dir()), job_name="run"):
        return compose("config", list(overrides))


def load_config(path: Path) -> DictConfig:
    """Load a YAML file that holds a mapping, such as the config.yaml of a run."""
    return cast(DictConfig, OmegaConf.load(path))


def to_plain_dict(cfg: BaseContainer) -> dict[str, Any]:
    """Return `cfg` as nested dicts and lists, with interpolations resolved."""
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def without_sweep_keys(cfg: DictConfig) -> DictConfig:
    """Return `cfg` without SWEEP_ONLY_KEYS."""
    if not cfg.keys() & set(SWEEP_ONLY_KEYS):
        return cfg
    part = deepcopy(cfg)
    with open_dict(part):
        for key in SWEEP_ONLY_KEYS:
            part.pop(key, None)
    return part


def list_search_path_overrides(hydra: Any) -> list[str]:
    """Return the user's configuration folders (`--config-dir`) as an override that works in every process.

    Args:
        hydra: The node `hydra` of a composed configuration, or HydraConfig.get().
    """
    shipped = ("hydra", "main", "schema")
    sources = [source for source in hydra.runtime.config_sources if source.provider not in shipped]
    folders = [f"{one.schema}://{Path(one.path).absolute() if one.schema == 'file' else one.path}" for one in sources]
    return [format_search_path(folders)] if folders else []


def format_search_path(folders: Sequence[str]) -> str:
    """Return the override that adds configuration folders, quoted for Hydra."""
    quoted = (QuotedString(folder, Quote.single).with_quotes() for folder in folders)
    return f"hydra.searchpath=[{','.join(quoted)}]"


def contains_key(outer: str, inner: str) -> bool:
    """Return whether the dotted key `inner` equals `outer` or lies below it."""
    return f"{inner}.".startswith(f"{outer}.")


def flatten_config(node: object, key: str = "") -> dict[str, str]:
    """Return every leaf of nested mappings as text, by dotted key; an empty mapping is a leaf."""
    if not isinstance(node, dict) or not node:
        return {key: str(node)}
    children = [flatten_config(child, f"{key}.{name}" if key else name) for name, child in node.items()]
    return {name: value for child in children for name, value in child.items()}
