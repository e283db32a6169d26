"""What a `_target_` may be: something public of a trusted package, given keywords and kinds of value that it takes."""

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
"""Where a `_target_` may come from. A user's own package is added by HARNESS_TRUST=package: by the environment, since
a configuration must not say of itself that it may be trusted."""


TYPE_DESCRIPTIONS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def trusted_packages() -> tuple[str, ...]:
    """The packages that a `_target_` may come from."""
    own = filter(None, os.environ.get("HARNESS_TRUST", "").split(","))
    return (*TRUSTED_PACKAGES, *(package.strip() for package in own))


def hydra_whitelist() -> tuple[str, ...]:
    """Hydra's patterns of what may be called: trusted packages, the models, callable too, that their targets return,
    and what stands between us and Hydra."""
    return tuple(f"{package}.*" for package in (*trusted_packages(), "transformers.models", "harness.sweep"))


def find_targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node under `node` that names a target, with its key."""
    if isinstance(node, DictConfig):
        if node.get("_target_") is not None:
            yield key, node
        for name in node:
            yield from find_targets(node[name], f"{key}.{name}" if key else str(name))
    elif isinstance(node, ListConfig):
        for index, child in enumerate(node):
            yield from find_targets(child, f"{key}[{index}]")


def check_target(key: str, node: DictConfig) -> None:
    """ConfigError unless the target of `node` is trusted, exists and takes these keywords and kinds of value."""
    target = str(node["_target_"])
    check_arguments(key, node, import_target(f"{key}._target_", target))


def check_arguments(key: str, node: DictConfig, found: Any) -> None:
    """ConfigError unless `found` takes the keywords and kinds of value of `node`."""
    target = str(node["_target_"])
    if "_args_" in node:
        raise ConfigError(f"{key}._args_: arguments are given by name")
    given = [name for name in node if not (name.startswith("_") and name.endswith("_"))]
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
    """The public object of a trusted package that the dotted path `target` names, imported only if it is trusted."""
    module_name, _, name = target.rpartition(".")
    _check_trusted(key, target, module_name)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}: {target} cannot be imported ({error})") from error
    if not hasattr(module, name):
        raise ConfigError(f"{key}: {module_name} has no {name!r}{did_you_mean(name, dir(module))}")
    found = getattr(module, name)
    _check_trusted(key, target, getattr(found, "__module__", None) or "")  # not what the module has itself imported
    return found


def _check_trusted(key: str, target: str, module_name: str) -> None:
    is_public = not any(part.startswith("_") for part in target.split("."))
    if not is_public or not any(f"{module_name}.".startswith(f"{package}.") for package in trusted_packages()):
        package = target.partition(".")[0]
        raise ConfigError(f"{key}: {target} is not trusted; if you trust it, set HARNESS_TRUST={package}")


def _read_signature(target: Any) -> inspect.Signature:
    """With annotations that are objects, where they can be had."""
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # an annotation that exists for type checkers only
        return inspect.signature(target)


def _check_type(key: str, value: Any, annotation: Any) -> None:
    """ConfigError where a number, a text or a list stands for what `annotation` says is another of these."""
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
