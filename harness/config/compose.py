"""Compose the configuration of a run from conf/ and overrides."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, cast

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.types import Quote, QuotedString
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.basecontainer import BaseContainer
from omegaconf.errors import OmegaConfBaseException

from harness.config.alternatives import read_given_settings, replace_alternatives
from harness.config.group_values import check_group_values
from harness.config.hydra_internals import Choices, ConfigFile, adjust_files, watch_compositions
from harness.config.key_hints import suggest_overrides
from harness.config.option_values import FileRules, LeftOut
from harness.config.overrides import SWEEP_ONLY_KEYS
from harness.config.schema import takes_whole_number
from harness.config.trust import check_components, check_composed_config, check_search_path
from harness.core.credentials import MASK, hide_credentials
from harness.core.digests import check_digest_comment
from harness.core.errors import ConfigError, DamageError
from harness.core.files import read_small_file
from harness.core.paths import config_dir

NON_TRAINING_KEYS = ("observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "expect",
                     "thresholds", "score_test", "parallel")  # fmt: skip
"""Keys that do not change the training."""

RECORDED_KEYS = ("name", "task", "model", "optimizer", "schedule", "start")
"""Keys that every recorded configuration has, among others."""
MAX_CONFIG_BYTES, MAX_CONFIG_DEPTH = 2**18, 32
"""Limits for a recorded configuration, whose usual size is 4 kB and whose usual depth is 4."""


_application_rules: list[FileRules] | None = None
"""Rules of the compositions of the running Hydra application, the latest last."""


@contextmanager
def check_compositions() -> Iterator[list[FileRules]]:
    """Let Hydra compose by our rules in this context: trusted configurations only, and values only for their options.

    Yields a list to which the rules of each composition are added.

    Raises:
        ConfigError: When a configuration is composed that is not trusted.
    """
    global _application_rules
    compositions: list[FileRules] = []
    is_outermost = _application_rules is None

    def make_rules(files: Sequence[ConfigFile], chosen: Choices, default_choices: Choices) -> FileRules:
        compositions.append(FileRules(files, chosen, default_choices))
        return compositions[-1]

    def finish_config(cfg: DictConfig) -> None:
        overrides = cast(list[str], OmegaConf.to_container(cfg.hydra.overrides.task, resolve=False))
        given = read_given_settings(overrides)
        replace_alternatives(cfg, given)
        for key, value in given.items():
            if isinstance(value, float) and value.is_integer() and takes_whole_number(key):  # such as 1e6
                OmegaConf.update(cfg, key, int(value))
        check_composed_config(cfg)
        _check_top_level_keys(cfg, overrides)

    with watch_compositions(finish_config, check_search_path), adjust_files(make_rules):
        _application_rules = compositions if is_outermost else _application_rules
        try:
            yield compositions
        finally:
            _application_rules = None if is_outermost else _application_rules


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Compose the configuration of `overrides`, on the search path of the running Hydra application if there is one.

    Results are cached, so that a process sees the same configuration after its files have changed.
    """
    check_group_values(overrides)
    return deepcopy(_compose(overrides)[0])


def list_file_ranges(overrides: Sequence[str]) -> set[str]:
    """Return the keys that the sweep file searches which `overrides` choose, or the default one."""
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    conditional = OmegaConf.to_container(cfg.sweep.conditional, resolve=False)
    parts = [cfg.hydra.sweeper.get("params"), *(conditional.values() if isinstance(conditional, dict) else ())]
    return {str(key) for part in parts for key in part or ()}


def list_choices(overrides: Sequence[str]) -> dict[str, str]:
    """Return the option of each config group that `overrides` choose, or the default one."""
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        cfg = compose("config", list(overrides), return_hydra_config=True)
    return {str(group): str(option) for group, option in cfg.hydra.runtime.choices.items()}


def list_left_out(overrides: Sequence[str]) -> Sequence[LeftOut]:
    """Return the values of an experiment that are for other options than `overrides` choose."""
    has_choice = any("." not in override.partition("=")[0] for override in overrides)
    return _compose(overrides)[1] if has_choice else ()


def list_left_out_of_job() -> Sequence[LeftOut]:
    """Return what `list_left_out` would for the job that the running Hydra application has just composed."""
    return tuple(_application_rules[-1].left_out.values()) if _application_rules else ()


def _compose(overrides: Sequence[str]) -> tuple[DictConfig, Sequence[LeftOut]]:
    hydra = GlobalHydra.instance()
    return _compose_cached(hydra.config_loader() if hydra.is_initialized() else None, tuple(overrides))


@lru_cache(maxsize=64)
def _compose_cached(
    application: ConfigLoader | None, overrides: tuple[str, ...]
) -> tuple[DictConfig, Sequence[LeftOut]]:
    with (
        check_compositions() as compositions,
        nullcontext() if application else initialize_config_dir(str(config_dir()), job_name="run"),
    ):
        cfg = compose("config", list(overrides))
    return cfg, tuple(compositions[-1].left_out.values())


def _check_top_level_keys(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Check that each key at the top level is read, by the program or by an interpolation.

    Raises:
        ConfigError: If one is not: a setting without effect.
    """
    unknown = [key for key in map(str, cfg) if key not in (*_list_top_level_keys(), "hydra")]
    if not unknown or any("@_global_" in one.partition("=")[0] for one in overrides):
        return
    text = " ".join(flatten_config(OmegaConf.to_container(cfg, resolve=False)).values())
    for key in unknown:
        if re.search(rf"\$\{{\s*{re.escape(key)}\s*[.\[}}]", text):
            continue
        given = next((one for one in overrides if re.match(rf"\++{re.escape(key)}\b", one)), "")
        if not given and key in ("experiment", "sweeps"):
            raise ConfigError(f"{key}: its file begins with the line '# @package _global_'; add it")
        known = flatten_values(OmegaConf.to_container(cfg))
        known = {one: value for one, value in known.items() if not contains_key(key, one)}
        others = suggest_overrides(key, given.partition("=")[2], known, overrides)
        hint = f"did you mean {' or '.join(others)}?" if others else f"remove it, or refer to it as ${{{key}}}"
        raise ConfigError(f"{given or key}: nothing reads the key {key!r}; {hint}")


@cache
def _list_top_level_keys() -> frozenset[str]:
    """Return the keys and groups of conf/config.yaml, but those whose options are written for the top level."""
    content = yaml.safe_load((config_dir() / "config.yaml").read_text())
    groups = {str(name) for entry in content["defaults"] if isinstance(entry, dict) for name in entry}
    return frozenset(content) | groups - {"experiment", "sweeps"}


def load_config(path: Path) -> DictConfig:
    """Load the config.yaml of a run, which anyone may have written.

    Raises:
        ConfigError: If it is damaged, is not a resolved configuration, or names a component that is not trusted.
    """
    try:
        text = read_small_file(path, MAX_CONFIG_BYTES).decode()
        check_digest_comment(path, text.encode())
        _check_yaml_events(text)
        cfg = OmegaConf.load(io.StringIO(text))
        plain = OmegaConf.to_container(cfg, resolve=False)
    except DamageError as error:
        raise ConfigError(str(error)) from error
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: is not the configuration of a run: {reason}") from error
    if not isinstance(cfg, DictConfig):
        raise ConfigError(f"{path}: is not the configuration of a run: it holds no keys")
    try:
        check_components(plain)
    except ConfigError as error:
        raise type(error)(f"{path}: {error}") from error
    return cfg


def _check_yaml_events(text: str) -> None:
    """Check that YAML has no aliases, which can grow without bounds, no interpolation, and is not nested too deeply.

    Raises:
        ValueError: If it has or is.
    """
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        if isinstance(event, yaml.ScalarEvent) and "${" in event.value:
            raise ValueError(f"it has an interpolation, {event.value}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_CONFIG_DEPTH:
            raise ValueError(f"it is nested more than {MAX_CONFIG_DEPTH} levels deep")


def load_run_config(folder: Path) -> DictConfig:
    """Load the config.yaml in a run's folder.

    Raises:
        ConfigError: If it is not the configuration of a run, or names a component that is not trusted.
    """
    cfg = load_config(folder / "config.yaml")
    if missing := [key for key in RECORDED_KEYS if key not in cfg]:
        raise ConfigError(f"{folder / 'config.yaml'}: is not the configuration of a run: it has no key {missing[0]}")
    return cfg


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


def remove_credentials(cfg: DictConfig) -> None:
    """Remove users and passwords from all addresses in `cfg`, in place; *** stands for text that is damaged by that."""
    for *parents, key in _find_credentials(plain := OmegaConf.to_container(cfg)):
        node: Any = cfg
        value: Any = plain
        for parent in parents:
            node, value = node[parent], value[parent]
        value = value[key]
        with read_write(node):
            try:
                node[key] = hide_credentials(value)
            except OmegaConfBaseException:  # an interpolation has lost its end
                node[key] = MASK


def _find_credentials(value: object) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each text with credentials, as keys and indices."""
    if isinstance(value, str) and hide_credentials(value) != value:
        yield ()
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield from ((key, *path) for path in _find_credentials(child))


def has_key(cfg: DictConfig, key: str) -> bool:
    """Return whether the dotted key exists in `cfg`, also where its value is null or missing."""
    node: Any = cfg
    for name in key.split("."):
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing() or name not in list(node):
            return False
        node = node._get_node(name)
    return True


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
    quoted = (QuotedString(folder, Quote.double).with_quotes() for folder in folders)
    return f"hydra.searchpath=[{','.join(quoted)}]"


def contains_key(outer: str, inner: str) -> bool:
    """Return whether the dotted key `inner` equals `outer` or lies below it."""
    return f"{inner}.".startswith(f"{outer}.")


def flatten_config(node: object) -> dict[str, str]:
    """Return every leaf of nested mappings as text, by dotted key; an empty mapping is a leaf."""
    return {key: str(value) for key, value in flatten_values(node).items()}


def flatten_values(node: object, key: str = "") -> dict[str, Any]:
    """Return every leaf of nested mappings by dotted key; an empty mapping is a leaf."""
    if not isinstance(node, dict) or not node:
        return {key: node}
    children = [flatten_values(child, f"{key}.{name}" if key else str(name)) for name, child in node.items()]
    return {name: value for child in children for name, value in child.items()}
