"""Check every node of a configuration before anything in it is imported or called, whoever wrote it."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import InterpolationToMissingValueError, OmegaConfBaseException

from harness.config.overrides import check_no_credentials
from harness.config.trusted_components import (
    COMPONENTS,
    LAUNCHER_KEYS,
    LOGGING_TARGETS,
    PACKAGE_SOURCE,
    find_place,
    name_trust_line,
    read_own_names,
)
from harness.core.errors import ConfigError, UntrustedError, did_you_mean

Path = tuple[str, ...]

SPECIAL_KEY = r"_\w+_"  # all keys that Hydra's instantiate reads are of this form
LOGGING_SECTIONS = ("job_logging", "hydra_logging")
OWN_SWEEPER = "harness.sweep.plugin.StudySweeper"
BUILT_SECTIONS = ("sweeper", "launcher")  # what Hydra cannot do without
LOGGING_KEYS = tuple(f"hydra.{section}" for section in LOGGING_SECTIONS)
LITERAL_SECTIONS = ("callbacks", "launcher", "sweeper", *LOGGING_SECTIONS)  # what Hydra builds objects from
SHIPPED_LOG_FILE = "${hydra.runtime.output_dir}/${hydra.job.name}.log"  # hydra/job_logging=default
# An interpolation that calls a resolver, which may make a mapping, or one within another.
RESOLVER = re.compile(r"\$\{[^}]*(?::|\$\{)")
WRITE_OUT = "must be written out; an interpolation may only stand for a number or text"
HARMLESS_RESOLVER = re.compile(r"\$\{(?:oc\.env|now):")


def check_components(plain: Any, path: Path = ()) -> None:
    """Check that each `_target_` in plain data is trusted at its place, and that no other special key is used.

    Args:
        plain: Nested dicts and lists; interpolations are text.
        path: Parts of the key of `plain` in the configuration.

    Raises:
        ConfigError: At the first node that must not be built.
    """
    for node_path, node in iter_mappings(plain, path):
        special = {str(name) for name in node if re.fullmatch(SPECIAL_KEY, str(name))}
        if special:
            _check_special_keys(node_path, node, special)


def iter_mappings(plain: Any, path: Path = ()) -> Iterator[tuple[Path, dict[Any, Any]]]:
    """Yield each mapping in plain data with the parts of its key, outer ones first."""
    if isinstance(plain, dict):
        yield path, plain
        for name, child in plain.items():
            yield from iter_mappings(child, (*path, str(name)))
    elif isinstance(plain, list | tuple):
        for index, child in enumerate(plain):
            yield from iter_mappings(child, (*path[:-1], f"{path[-1] if path else ''}[{index}]"))


def check_name(path: Path, target: str) -> None:
    """Check that the component `target` may stand at the key with the parts `path`, without a last part `_target_`.

    Raises:
        ConfigError: If it may not.
    """
    parts = path[:-1] if path[-1] == "_target_" else path
    place = find_place(parts)
    if place is not None and target in (*COMPONENTS[place], *read_own_names()):
        return
    key = ".".join(path)
    if place is None:
        raise ConfigError(
            f"{'.'.join(parts) or 'the top level'}: a component cannot stand here; remove _target_: {target}"
        )
    if any(target in names for names in COMPONENTS.values()):
        raise ConfigError(f"{key}: {target} cannot stand here; it belongs to {' or '.join(_find_places(target))}")
    hint = did_you_mean(target, COMPONENTS[place])
    if target.startswith("harness."):  # not made to be a component, so trusting it does not help
        raise ConfigError(f"{key}: {target} is not trusted{hint or '; choose another component'}")
    raise UntrustedError(f"{key}: {target} is not trusted; if you trust it, set {name_trust_line(target)}{hint}")


def check_composed_config(cfg: DictConfig) -> None:
    """Check a composed configuration, with the settings of Hydra if it has them.

    Raises:
        ConfigError: If it names what is not trusted.
    """
    plain: dict[str, Any] = OmegaConf.to_container(cfg, resolve=False)  # type: ignore[assignment]
    check_components(plain)
    if "hydra" in plain:
        _check_hydra_node(cfg.hydra, plain["hydra"])


def check_hydra_settings(hydra: DictConfig) -> None:
    """Check the node `hydra`: what it builds, its logging, its launcher and what it does to the environment.

    Raises:
        ConfigError: If it could run code or commands, or overwrite files.
    """
    plain: dict[str, Any] = OmegaConf.to_container(hydra, resolve=False)  # type: ignore[assignment]
    check_components(plain, ("hydra",))
    _check_hydra_node(hydra, plain)


def check_search_path(source: str) -> None:
    """Check an entry of `hydra.searchpath`: Hydra imports the package of `pkg://`.

    Raises:
        ConfigError: If it is a package that HARNESS_TRUST does not name.
    """
    scheme, _, name = source.rpartition("://")
    if scheme in ("", "file") or source in read_own_names():
        return
    remedy = (
        f"if you trust it, set {name_trust_line(source)}" if re.fullmatch(PACKAGE_SOURCE, source) else "use file://"
    )
    raise ConfigError(f"hydra.searchpath: {source} would import {name}, which is not trusted; {remedy}")


def _check_special_keys(path: Path, node: dict[Any, Any], special: set[str]) -> None:
    key = ".".join(path)
    dot = f"{key}." if key else ""
    if "_target_" not in special:
        name = min(special)
        raise ConfigError(f"{dot}{name}: is for components, and there is no _target_ here; remove it")
    target = node["_target_"]
    if not isinstance(target, str) or "${" in target:
        raise ConfigError(f"{dot}_target_: {target!r} must be the name of a component, written out")
    if target == "???":
        raise ConfigError(f"{dot}_target_: has no value; add {dot}_target_=…")
    check_name((*path, "_target_"), target)
    if "_args_" in special:
        raise ConfigError(f"{dot}_args_: positional arguments are not supported; give arguments by name")
    if not isinstance(node.get("_partial_", False), bool):
        raise ConfigError(f"{dot}_partial_: {node['_partial_']!r} must be true or false")
    if others := sorted(special - {"_target_", "_partial_"}):
        raise ConfigError(f"{dot}{others[0]}: is not supported; remove it")


def _find_places(target: str) -> Sequence[str]:
    return [place for place, names in COMPONENTS.items() if target in names]


def _check_hydra_node(hydra: DictConfig, plain: dict[str, Any]) -> None:
    for section in LITERAL_SECTIONS:
        _check_interpolations(hydra, section, plain.get(section), f"hydra.{section}")
    for section in BUILT_SECTIONS:
        _check_is_component(plain.get(section), f"hydra.{section}", f"choose an option with hydra/{section}=…")
    callbacks = plain.get("callbacks") or {}
    if not isinstance(callbacks, dict):
        raise ConfigError(f"hydra.callbacks: {callbacks!r} is not a section; remove it")
    for name, callback in callbacks.items():
        _check_is_component(callback, f"hydra.callbacks.{name}", "remove it")
    extend = plain["sweeper"].get("custom_search_space")
    if extend is not None:
        check_name(("hydra", "sweeper", "custom_search_space"), str(extend))
    for section in LOGGING_SECTIONS:
        _check_logging(plain.get(section), f"hydra.{section}")
    _check_launcher(plain["launcher"])
    if plain["sweeper"]["_target_"] != OWN_SWEEPER:
        for override in (plain.get("overrides") or {}).get("task") or ():
            check_no_credentials(override, "multirun.yaml of Hydra")
    for name in ("env_set", "env_copy"):
        for variable in (plain.get("job") or {}).get(name) or ():
            raise ConfigError(
                f"hydra.job.{name}: {variable}: a configuration cannot set environment variables; set it in the shell"
            )
    if plain.get("output_subdir") is not None:
        raise ConfigError(
            f"hydra.output_subdir: Hydra would write settings with their passwords to {plain['output_subdir']!r}, and "
            "replace files there; use null: each run's folder has config.yaml and command.txt"
        )


def _check_is_component(plain: Any, key: str, remedy: str) -> None:
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise ConfigError(f"{key}: {plain!r} has no _target_; {remedy}")


def _check_interpolations(parent: Any, name: Any, plain: Any, key: str) -> None:
    """Check that each interpolation in a section stands for a number or text, which is known now and cannot change.

    `plain` is `parent[name]` as plain data.
    """
    if isinstance(plain, dict):
        for child, value in plain.items():
            _check_interpolations(parent[name], child, value, f"{key}.{child!s}")
    elif isinstance(plain, list):
        for index, value in enumerate(plain):
            _check_interpolations(parent[name], index, value, f"{key}[{index}]")
    elif isinstance(plain, str) and "${" in plain and key.startswith(LOGGING_KEYS):
        if plain != SHIPPED_LOG_FILE:
            raise ConfigError(f"{key}: {plain} must be written out")
    elif isinstance(plain, str) and "${" in plain:
        if RESOLVER.search(HARMLESS_RESOLVER.sub("", plain)):
            raise ConfigError(f"{key}: {WRITE_OUT}")
        try:
            value = parent[name]
        except InterpolationToMissingValueError:  # the key that it names is required, but not set
            return
        except OmegaConfBaseException as error:  # known to a job only
            raise ConfigError(f"{key}: {plain} has no value yet; write the value") from error
        if isinstance(value, DictConfig | ListConfig):
            raise ConfigError(f"{key}: {WRITE_OUT}")
        _check_one_line(key, value)


def _check_logging(section: Any, key: str) -> None:
    """Check that logging builds only known handlers, and that its files can neither replace nor pose as others."""
    for path, node in iter_mappings(section, (key,)):
        here = ".".join(path)
        for name, value in node.items():
            is_target = name in ("()", "class", "factory", "listener", "queue")
            is_reference = isinstance(value, str) and re.match(r"\w+://", value)
            if not (is_target or is_reference) or value in LOGGING_TARGETS:
                continue
            if is_target and isinstance(value, str) and value in read_own_names():
                continue
            raise ConfigError(f"{here}.{name}: {value} is not trusted; use one of {', '.join(LOGGING_TARGETS)}")
        if "." in node:
            raise ConfigError(f"{here}: '.' is not supported; remove it")
        if node.get("mode", "a") != "a":
            raise ConfigError(f"{here}.mode: {node['mode']!r} would empty the file; use a")
        if "filename" in node and not str(node["filename"]).endswith(".log"):
            raise ConfigError(f"{here}.filename: {node['filename']!r} must end in .log")


def _check_launcher(launcher: dict[str, Any]) -> None:
    """Check that a launcher is given resources only, nothing that runs commands or code."""
    for key, value in _list_leaves(launcher):
        if key == "_target_" or value in (None, {}, []):
            continue
        is_local = key == "ray.init.address" and value in ("auto", "local")
        if key not in LAUNCHER_KEYS and not is_local and not _is_key_trusted(f"hydra.launcher.{key}"):
            raise ConfigError(
                f"hydra.launcher.{key}: can run commands or code on the machines of the launcher; "
                f"if you trust {value!r}, set {name_trust_line(f'hydra.launcher.{key}')}"
            )
        _check_one_line(f"hydra.launcher.{key}", value)


def _check_one_line(key: str, value: Any) -> None:
    """Check that a launcher's setting cannot add lines to the script of a job."""
    if key.startswith("hydra.launcher.") and re.search(r"[\x00-\x1f\x7f]", str(value)):
        raise ConfigError(f"{key}: {value!r} has a line break or control character; remove it")


def _is_key_trusted(key: str) -> bool:
    """Return whether HARNESS_TRUST names the key or a section that holds it."""
    return any(f"{key}.".startswith(f"{name}.") for name in read_own_names() if name.startswith("hydra.launcher."))


def _list_leaves(plain: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, dict) and value:
            yield from _list_leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
