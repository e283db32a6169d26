"""Check that the task, the model, the data and the tokenizer go together, by what their signatures declare.

A task's builder declares what it calls the others with, and what they return: `model: LanguageModelBuilder`.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, get_args, get_type_hints

import yaml

from harness.config.compose import flatten_config
from harness.config.group_options import read_options
from harness.config.targets import import_component
from harness.core.errors import ConfigError
from harness.core.paths import config_dir

PARTS = ("model", "data", "tokenizer")
"""Groups whose components a task is built of."""
MAX_LISTED = 3


def check_task_parts(plain: Mapping[str, Any]) -> None:
    """Check that the task of a configuration takes its model, data and tokenizer.

    Args:
        plain: The configuration, whose components are known to exist.

    Raises:
        ConfigError: If it does not; the message names options that go together.
    """
    task = _import_part("task", plain["task"])
    parts = {group: _import_part(group, plain.get(group)) for group in PARTS}
    unfit = [group for group in PARTS if not _accepts(task, group, parts[group])]
    if unfit:
        raise ConfigError(_explain_misfit(plain, parts, unfit))


def _import_part(group: str, node: Any) -> Any:
    """Return the component of a group, None if there is none."""
    target = node.get("_target_") if isinstance(node, dict) else None
    return None if target is None else import_component((group, "_target_"), target)


def _accepts(task: Any, group: str, part: Any) -> bool:
    return _find_misfit(task, group, part) is None


def _find_misfit(task: Any, group: str, part: Any) -> str | None:
    """Return why a task's builder does not take `part`, or None, as what the group `group` stands for; None if it does.

    The reason is empty where the group itself is not one of the task's, or one is missing.
    """
    parameters = inspect.signature(task).parameters
    if group not in parameters:
        is_taken = part is None or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        return None if is_taken else ""
    if part is None:
        return "" if parameters[group].default is inspect.Parameter.empty else None
    passed, returned = _read_builder_type(_read_hints(task).get(group))
    taken = inspect.signature(part).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values())
    result = part if inspect.isclass(part) else _read_hints(part).get("return")
    if inspect.isclass(returned) and inspect.isclass(result) and not issubclass(result, returned):
        return f"which is not a {returned.__module__.partition('.')[0]} {returned.__name__}"
    missing = [] if takes_any else [name for name in passed if name not in taken]
    return f"which takes no {missing[0]}" if missing else None


def _read_builder_type(hint: Any) -> tuple[Sequence[str], Any]:
    """Return the arguments that a builder of this type is called with, and what it returns; nothing where unknown."""
    if inspect.isclass(hint) and getattr(hint, "_is_protocol", False):
        call = hint.__call__
        return list(inspect.signature(call).parameters)[1:], _read_hints(call).get("return")
    arguments = get_args(hint)
    return (), arguments[1] if len(arguments) == 2 else None  # Callable[..., X]


def _read_hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    with suppress(NameError, TypeError):  # a name that is imported for type checkers only
        return get_type_hints(function)
    return {}


def _explain_misfit(plain: Mapping[str, Any], parts: Mapping[str, Any], unfit: Sequence[str]) -> str:
    """Return a message with options that the task takes, and with the tasks that take the parts it does not."""
    task = _name_option("task", plain["task"])
    builder = _import_part("task", plain["task"])
    given = [_describe_part(group, plain[group], _find_misfit(builder, group, parts[group])) for group in unfit]
    others: dict[str, list[str]] = {}  # tasks by what else must change
    for option, other in _import_options("task").items():
        if option != task and all(_accepts(other, group, parts[group]) for group in unfit):
            changed = [group for group in ("model", "data") if not _accepts(other, group, parts[group])]
            others.setdefault(" ".join(["", *_list_fitting_options(other, changed)]), []).append(option)
    remedies = [
        " ".join(_list_fitting_options(builder, unfit)),
        *(f"task={'|'.join(options)}{changes}" for changes, options in others.items()),
    ]
    names = [_find_experiment(name) for name in (task, *(name for options in others.values() for name in options))]
    hint = next((f"; experiment={name} has options that go together" for name in names if name), "")
    return f"task={task}: does not go with {' and '.join(given)}; use {', or '.join(filter(None, remedies))}{hint}"


def _describe_part(group: str, node: Any, misfit: str | None) -> str:
    """Return what was chosen for a group; for a component of the user's own, also why it does not fit."""
    if not isinstance(node, dict) or "_target_" not in node:
        return f"no {group}"
    is_own = not node["_target_"].startswith("harness.")
    return f"{group}={_name_option(group, node)}{f', {misfit}' * bool(misfit and is_own)}"


def _list_fitting_options(task: Any, groups: Sequence[str]) -> list[str]:
    """Return for each group an override with the options that the task takes.

    A group of which it takes none is left out where there is a model to choose, which brings what it needs.
    """
    overrides = []
    for group in groups:
        parts = {option: part for option, part in _import_options(group).items() if _accepts(task, group, part)}
        shared = list(parts.values())
        fitting = sorted(parts, key=lambda option: -shared.count(parts[option]))  # sizes of one model come first
        shown = [*fitting[:MAX_LISTED], "…"] if len(fitting) > MAX_LISTED else fitting
        if fitting or "model" not in groups:
            overrides.append(f"{group}={'|'.join(shown)}" if fitting else f"~{group}")
    return overrides


def _name_option(group: str, node: Any) -> str:
    """Return the option of a group that `node` has most values of, or its component where no option has that."""
    target = node["_target_"] if isinstance(node, dict) and "_target_" in node else None
    options = {name: content for name, content in read_options(group).items() if content.get("_target_") == target}
    values = flatten_config(node).items()
    shared = {name: len(flatten_config(content).items() & values) for name, content in options.items()}
    return max(options, key=shared.__getitem__, default=str(target))


def _import_options(group: str) -> dict[str, Any]:
    """Return the component of each option of a group that names one which can be imported."""
    found = {}
    for option, content in read_options(group).items():
        with suppress(Exception):  # of the user's own code: not the option that was chosen
            found[option] = import_component((group, "_target_"), content["_target_"])
    return found


def _find_experiment(task: str) -> str:
    """Return the experiment with the shortest name that chooses the task; an empty string if there is none."""
    files = sorted((config_dir() / "experiment").glob("*.yaml"), key=lambda path: (len(path.stem), path.stem))
    chosen = {"override /task": task}
    return next((path.stem for path in files if chosen in yaml.safe_load(path.read_text()).get("defaults", ())), "")
