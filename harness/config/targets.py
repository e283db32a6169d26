"""Build the components of a configuration: trusted objects, with arguments that match their signature."""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from types import UnionType
from typing import Any, Union, get_args, get_origin

from harness.config.trust import Path, check_components, check_name, iter_mappings
from harness.core.errors import ConfigError, did_you_mean

TYPE_DESCRIPTIONS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
LIST_TYPES, MAPPING_TYPES = {tuple, list, Iterable}, {dict, Mapping}
ANY_TYPES = {Any, object, inspect.Parameter.empty}


def find_components(plain: Any, path: Path = ()) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the parts of the key and the node of each component in plain data."""
    return ((node_path, node) for node_path, node in iter_mappings(plain, path) if "_target_" in node)


def check_all_components(plain: Any) -> None:
    """Check that each component in plain data is trusted, exists and accepts its arguments.

    Raises:
        ConfigError: At the first one that is or does not.
    """
    check_components(plain)
    for path, node in find_components(plain):
        check_arguments(path, node, import_component((*path, "_target_"), node["_target_"]))


def build_component(plain: Any, path: Path) -> Any:
    """Build the component that plain data describes, after its arguments; a partial if it says so.

    Args:
        plain: A node with `_target_`.
        path: Parts of its key in the configuration.

    Raises:
        ConfigError: If a component is not trusted, does not exist or does not accept its arguments.
    """
    if not isinstance(plain, dict) or "_target_" not in plain:
        raise ConfigError(f"{'.'.join(path)}: is not a component; it needs a _target_")
    check_components(plain, path)
    return _build_node(plain, path)


def check_arguments(path: Path, node: Mapping[str, Any], found: Any) -> None:
    """Check that `found`, the target of `node`, accepts the names and types of the arguments in `node`.

    Raises:
        ConfigError: If it does not accept them.
    """
    key, target = ".".join(path), node["_target_"]
    given = [name for name in map(str, node) if name not in ("_target_", "_partial_")]
    parameters = _read_signature(found).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name in given:
        if name in parameters:
            _check_type(f"{key}.{name}", node[name], parameters[name])
        elif not takes_any:
            raise ConfigError(f"{key}.{name}: {target} has no parameter {name!r}{did_you_mean(name, parameters)}")
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {name for name, p in parameters.items() if p.default is p.empty and p.kind not in variadic}
    if not node.get("_partial_") and needed - set(given):
        raise ConfigError(f"{key}: {target} needs {', '.join(sorted(needed - set(given)))}")


def import_component(path: Path, target: str) -> Any:
    """Import the component `target`, which must be trusted at the key with the parts `path`.

    Raises:
        ConfigError: If it is not trusted or does not exist; the message names the key.
    """
    key = ".".join(path)
    check_name(path, target)
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(f"{key}: {target} cannot be imported ({error})") from error
    if not hasattr(module, name):
        raise ConfigError(f"{key}: {module_name} has no {name!r}{did_you_mean(name, dir(module))}")
    found = getattr(module, name)
    if not callable(found):
        raise ConfigError(f"{key}: {target} is neither a class nor a function; name one")
    return found


def _build_node(plain: Any, path: Path) -> Any:
    """Build plain data that has been checked: components are called, the rest stays as it is."""
    if isinstance(plain, list):
        return [_build_node(child, (*path[:-1], f"{path[-1]}[{index}]")) for index, child in enumerate(plain)]
    if not isinstance(plain, dict):
        return plain
    built = {name: _build_node(child, (*path, str(name))) for name, child in plain.items()}
    if "_target_" not in plain:
        return built
    found = import_component((*path, "_target_"), plain["_target_"])
    check_arguments(path, plain, found)
    arguments = {name: value for name, value in built.items() if name not in ("_target_", "_partial_")}
    return partial(found, **arguments) if plain.get("_partial_") else found(**arguments)


def _read_signature(target: Any) -> inspect.Signature:
    """Return the signature, with annotations as objects if they can be evaluated."""
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # imported under TYPE_CHECKING only
        return inspect.signature(target)


def _check_type(key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Check that a number, text, list or mapping is what the annotation asks for, or else the default."""
    if value is None or (isinstance(value, dict) and "_target_" in value):
        return
    kinds = _list_kinds(parameter)
    plain, takes_lists = kinds & TYPE_DESCRIPTIONS.keys(), bool(kinds & LIST_TYPES)
    if not plain and not takes_lists:
        return  # an annotation that is not checked
    is_near = type(value) is int and float in plain
    takes_mappings = bool(kinds & (MAPPING_TYPES | ANY_TYPES))
    if takes_mappings if isinstance(value, dict) else takes_lists if isinstance(value, list) else type(value) in plain:
        return
    if is_near:
        return
    names = [TYPE_DESCRIPTIONS[kind] for kind in TYPE_DESCRIPTIONS if kind in plain] + ["a list"] * takes_lists
    raise ConfigError(f"{key}: {value!r} is not {' or '.join(names)}")


def _list_kinds(parameter: inspect.Parameter) -> set[Any]:
    """Return the types that a parameter accepts; that of its default if it has no annotation."""
    annotation = parameter.annotation
    if annotation is parameter.empty and type(parameter.default) in TYPE_DESCRIPTIONS:
        return {type(parameter.default), *({int, float} if type(parameter.default) in (int, float) else ())}
    options = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return {get_origin(option) or option for option in options}
