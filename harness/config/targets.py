"""Check `_target_` nodes: a public object of a trusted package, with arguments that match its signature."""

import importlib
import inspect
import os
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig

from harness.core.errors import ConfigError, did_you_mean

COMPONENT_PACKAGES = (
    "tasks",
    "models",
    "data",
    "training.lora",
    "training.optimizers",
    "training.schedules",
    "observers",
)
TRUSTED_PACKAGES = (*(f"harness.{name}" for name in COMPONENT_PACKAGES), "torch.optim", "pytorch_optimizer")
"""Packages that a `_target_` may name. HARNESS_TRUST=package adds a user's own; it is an environment variable because a
configuration must not be able to declare itself trusted."""


TYPE_DESCRIPTIONS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def trusted_packages() -> tuple[str, ...]:
    """Return the packages that a `_target_` may name."""
    own = filter(None, os.environ.get("HARNESS_TRUST", "").split(","))
    return (*TRUSTED_PACKAGES, *(package.strip() for package in own))


def hydra_whitelist() -> tuple[str, ...]:
    """Return patterns of what Hydra may call.

    These are trusted packages, the models that their functions return, which are callable too, and our Hydra plugins.
    """
    return tuple(f"{package}.*" for package in (*trusted_packages(), "transformers.models", "harness.sweep"))


def find_targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Yield the key and the node of each `_target_` below `node`."""
    if isinstance(node, DictConfig):
        if node.get("_target_") is not None:
            yield key, node
        for name in node:
            yield from find_targets(node[name], f"{key}.{name!s}" if key else str(name))
    elif isinstance(node, ListConfig):
        for index, child in enumerate(node):
            yield from find_targets(child, f"{key}[{index}]")


def check_target(key: str, node: DictConfig) -> None:
    """Check that the target of `node` is trusted, exists and accepts the given arguments.

    Raises:
        ConfigError: If it is not trusted, does not exist or does not accept them.
    """
    target = str(node["_target_"])
    check_arguments(key, node, import_target(f"{key}._target_", target))


def check_arguments(key: str, node: DictConfig, found: Any) -> None:
    """Check that `found`, the target of `node`, accepts the names and types of the arguments in `node`.

    Raises:
        ConfigError: If it does not accept them.
    """
    target = node["_target_"]
    if "_args_" in node:
        raise ConfigError(f"{key}._args_: positional arguments are not supported; give arguments by name")
    given = [name for name in map(str, node) if not (name.startswith("_") and name.endswith("_"))]
    parameters = _read_signature(found).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in given:
        if name in parameters:
            _check_type(f"{key}.{name}", node[name], parameters[name].annotation)
        elif not takes_any:
            raise ConfigError(f"{key}.{name}: {target} has no parameter {name!r}{did_you_mean(name, parameters)}")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {name for name, p in parameters.items() if p.default is p.empty and p.kind not in variadic}
    if not node.get("_partial_") and needed - set(given):
        raise ConfigError(f"{key}: {target} needs {', '.join(sorted(needed - set(given)))}")


def import_target(key: str, target: str) -> Any:
    """Import the public object of a trusted package at the dotted path `target`.

    Raises:
        ConfigError: If it is not trusted or does not exist; the message names `key`.
    """
    module_name, _, name = target.rpartition(".")
    _check_trusted(key, target, module_name)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}: {target} cannot be imported ({error})") from error
    if not hasattr(module, name):
        raise ConfigError(f"{key}: {module_name} has no {name!r}{did_you_mean(name, dir(module))}")
    found = getattr(module, name)
    _check_trusted(key, target, getattr(found, "__module__", None) or "")  # reject what the module itself has imported
    return found


def _check_trusted(key: str, target: str, module_name: str) -> None:
    is_public = not any(part.startswith("_") for part in target.split("."))
    if not is_public or not any(f"{module_name}.".startswith(f"{package}.") for package in trusted_packages()):
        package = target.partition(".")[0]
        raise ConfigError(f"{key}: {target} is not trusted; if you trust it, set HARNESS_TRUST={package}")


def _read_signature(target: Any) -> inspect.Signature:
    """Return the signature, with annotations as objects if they can be evaluated."""
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # imported under TYPE_CHECKING only
        return inspect.signature(target)


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """Check that a number, text or list is what `annotation` asks for; other annotations are not checked."""
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    kinds = {get_origin(option) or option for option in options}
    plain, lists = kinds & TYPE_DESCRIPTIONS.keys(), kinds & {tuple, list, Iterable}
    if value is None or isinstance(value, DictConfig) or not plain | lists:
        return
    is_near = type(value) is int and float in plain
    if bool(lists) if isinstance(value, ListConfig) else type(value) in plain or is_near:
        return
    names = [TYPE_DESCRIPTIONS[kind] for kind in TYPE_DESCRIPTIONS if kind in plain] + ["a list"] * bool(lists)
    raise ConfigError(f"{key}: {value!r} is not {' or '.join(names)}")
