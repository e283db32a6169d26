"""Read the values of the objectives from what the task function of an app returns."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

MAX_SHOWN = 60  # characters of a value in a message


class ObjectiveError(ValueError):
    """The task function returned something else than the values of the objectives."""


def read_objective_values(returned: Any, objectives: Sequence[str]) -> tuple[float, ...]:
    """Return the values of the objectives, as hydra-optuna-sweeper reads them, or by name if it is a mapping.

    Whatever `float()` takes is a number: a tensor or an array with one element, a text such as "0.5". With several
    objectives, anything that can be iterated holds their values. Values may be NaN or infinite: see `is_diverged`.

    Raises:
        ObjectiveError: If it does not hold as many numbers as there are objectives.
    """
    if isinstance(returned, Mapping):
        return _read_named_values(returned, objectives)
    if len(objectives) == 1:
        value = returned[0] if isinstance(returned, list | tuple) and len(returned) == 1 else returned
        return (_to_float(value, returned, "return the value to optimize as a float"),)
    names = ", ".join(objectives)
    remedy = f"return the values of {names} as a list or tuple of floats, or by name"
    if isinstance(returned, str | bytes) or not isinstance(returned, Iterable):
        raise ObjectiveError(_describe_wrong_value(returned, remedy))
    try:
        items = list(returned)
    except TypeError as error:  # a tensor or an array without dimensions
        raise ObjectiveError(_describe_wrong_value(returned, remedy)) from error
    values = tuple(_to_float(item, returned, remedy) for item in items)
    if len(values) != len(objectives):
        count = f"{len(values)} value{'s' * (len(values) != 1)}"
        raise ObjectiveError(
            f"the task function returned {count} for {len(objectives)} objectives, {names}; return one for each"
        )
    return values


def _read_named_values(returned: Mapping[str, Any], objectives: Sequence[str]) -> tuple[float, ...]:
    """Return the values of the objectives from a mapping, which may hold more."""
    if missing := [name for name in objectives if name not in returned]:
        names = [str(name) for name in returned]
        remedy = f"it has no {missing[0]!r}; return it by this name"
        if len(names) >= len(objectives) == len(missing):
            remedy += f", or set hydra.sweeper.objectives=[{','.join(names[: len(objectives)])}]"
        raise ObjectiveError(_describe_wrong_value(returned, remedy))
    return tuple(_to_float(returned[name], returned, f"return {name!r} as a float") for name in objectives)


def is_diverged(values: Iterable[float]) -> bool:
    """Return whether a value is NaN or infinite."""
    return not all(map(math.isfinite, values))


def _to_float(value: Any, returned: Any, remedy: str) -> float:
    try:
        return float(value)
    except OverflowError:  # an integer beyond the range of floats
        return math.inf if value > 0 else -math.inf
    except (TypeError, ValueError, RuntimeError) as error:  # RuntimeError: a tensor with several elements
        raise ObjectiveError(_describe_wrong_value(returned, remedy)) from error


def _describe_wrong_value(returned: Any, remedy: str) -> str:
    if returned is None:
        return f"the task function returned None; {remedy}"
    try:
        text = " ".join(repr(returned).split())
    except Exception:  # a repr that fails must not hide what is wrong
        text = "a value"
    text = text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
    return f"the task function returned {text} ({type(returned).__name__}); {remedy}"
