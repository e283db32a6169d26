"""Build the components of a configuration: trusted objects, with arguments that match their signature."""

import importlib
import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

from harness.config.interfaces import check_interface
from harness.config.trust import Path, check_components, check_name, iter_mappings
from harness.core.errors import ConfigError, did_you_mean
from harness.core.extras import describe_missing_package

TYPE_DESCRIPTIONS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
PLURALS = {bool: "true and false", int: "whole numbers", float: "numbers", str: "texts"}
LIST_TYPES, MAPPING_TYPES = {tuple, list, Iterable, Sequence}, {dict, Mapping}
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
        if missing := describe_missing_package(error):
            raise ConfigError(f"{key}: {target}: {missing}") from error
        raise ConfigError(f"{key}: {target} cannot be imported ({error}){_hint_at_path(error, module_name)}") from error
    if not hasattr(module, name):
        raise ConfigError(f"{key}: {module_name} has no {name!r}{did_you_mean(name, dir(module))}")
    found = getattr(module, name)
    if not callable(found):
        raise ConfigError(f"{key}: {target} is neither a class nor a function; name one")
    return found


def _hint_at_path(error: ImportError, module: str) -> str:
    """Return what to do if the package of a component is not found; an empty string if something else is missing."""
    package = module.partition(".")[0]
    if error.name != package:
        return ""
    return f"; run in the folder that holds {package} with PYTHONPATH=. , or install {package}"


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
    if plain.get("_partial_"):
        return partial(found, **arguments)
    result = found(**arguments)
    check_interface(path, plain["_target_"], result)
    return result


def _read_signature(target: Any) -> inspect.Signature:
    """Return the signature, with annotations as objects if they can be evaluated."""
    try:
        return inspect.signature(target, eval_str=True)
    except NameError:  # imported under TYPE_CHECKING only
        return inspect.signature(target)


def _check_type(key: str, value: Any, parameter: inspect.Parameter) -> None:
    """Check that plain data is what the annotation of a parameter asks for, or else its default."""
    annotation, default = parameter.annotation, parameter.default
    if annotation is parameter.empty:
        annotation = float if type(default) is int else type(default)
    if (value is None and default is None) or not _is_checkable(annotation) or _is_accepted(value, annotation):
        return
    raise ConfigError(f"{key}: {value!r} is not {_describe_annotation(annotation)}")


def _list_options(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)


def _is_checkable(annotation: Any) -> bool:
    """Return whether plain data can be compared with an annotation: it names a type of YAML or a class of ours."""
    options = _list_options(annotation)
    return not ANY_TYPES & set(options) and any(map(_describe_option, options))


def _is_accepted(value: Any, annotation: Any) -> bool:
    """Return whether an annotation allows plain data; what has a `_target_` is checked once it is built."""
    if isinstance(value, dict) and "_target_" in value:
        return True
    for option in _list_options(annotation):
        kind, arguments = get_origin(option) or option, get_args(option)
        if kind is Literal:
            is_accepted = any(value == choice and type(value) is type(choice) for choice in arguments)
        elif kind in LIST_TYPES:
            inner = [one for one in arguments if one is not ...]
            elements = value if isinstance(value, list) else [None]
            is_accepted = isinstance(value, list) and (
                not all(map(_is_checkable, inner)) or all(any(_is_accepted(e, one) for one in inner) for e in elements)
            )
        elif kind in MAPPING_TYPES:
            is_accepted = isinstance(value, dict)
        else:
            is_accepted = option in ANY_TYPES or type(value) is kind or (kind is float and type(value) is int)
        if is_accepted:
            return True
    return False


def _describe_annotation(annotation: Any) -> str:
    """Return the types that an annotation names, such as "a number or a list of numbers"."""
    return " or ".join(dict.fromkeys(filter(None, map(_describe_option, _list_options(annotation)))))


def _describe_option(option: Any) -> str:
    """Return what plain data an annotation without alternatives asks for; an empty string for other classes."""
    kind, arguments = get_origin(option) or option, [one for one in get_args(option) if one is not ...]
    if kind in LIST_TYPES:
        names = {PLURALS[one] for argument in arguments for one in _list_options(argument) if one in PLURALS}
        return f"a list of {' or '.join(sorted(names))}" if names else "a list"
    if kind is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if kind in MAPPING_TYPES:
        return "a mapping"
    is_ours = inspect.isclass(kind) and kind.__module__.startswith("harness.")
    return "a component with a _target_" if is_ours else TYPE_DESCRIPTIONS.get(kind, "")
