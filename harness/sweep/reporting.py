"""Reports of a training to the sweep that runs it: `report(loss, step=step, total_steps=total)` in any loop.

Without a sweep nothing happens, so a script that reports also runs alone. Only the standard library is loaded.
"""

import math
import operator
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat, SupportsIndex

from harness.core.ranks import is_first_process

Receiver = Callable[[float, int, int | None], None]
"""Receive a value, its step and the number of steps if it is known; raises Pruned or Interrupted to end the trial."""


class Pruned(Exception):
    """Ends a trial that the sweep's pruner has stopped.

    Let it leave your training function. Where you catch it, to save or close something, raise it again.
    """


class Interrupted(Exception):
    """Ends a trial because the sweep was asked to stop, as by Ctrl-C. The resumed sweep runs the trial again.

    Let it leave your training function. Where you catch it, to save or close something, raise it again.
    """


def report(value: SupportsFloat, *, step: SupportsIndex, total_steps: SupportsIndex | None = None) -> None:
    """Report an intermediate value of the objective; without a sweep, do nothing.

    Of several processes that train together, only the first one reports, and only it gets the exceptions. Tell the
    others that it has ended, or they wait for it; the callbacks for transformers and Lightning do that.

    Args:
        value: A number, or a tensor or array of one element. NaN and infinity are values of a trial that diverges.
        step: The steps or epochs done so far. Of several values of the same step, the first one counts.
        total_steps: The steps or epochs of the whole run. If it is unknown, the trials that have completed tell.

    Raises:
        Pruned: If the pruner stops the trial, and at each report after that.
        Interrupted: If the sweep was asked to stop, and at each report after that.
        TypeError: If the value is no single number, or a step is no integer.
        ValueError: If a step is negative or the total is not positive.
    """
    _check_value(value)
    step = _read_count("step", step, least=0)
    total = None if total_steps is None else _read_count("total_steps", total_steps, least=1)
    if _listener is not None and _listener.process == os.getpid() and is_first_process():
        _listener.receive(_to_float(value), step, total)


@contextmanager
def receive_reports(receiver: Receiver) -> Iterator[None]:
    """Pass the reports of this process to `receiver`. Its children have none, also those that are forked."""
    global _listener
    before, _listener = _listener, _Listener(receiver)
    try:
        yield
    finally:
        _listener = before


class _Listener:
    """A receiver that ends its trial once and for all: programs may catch every exception and train on."""

    def __init__(self, receiver: Receiver) -> None:
        self.process = os.getpid()
        self._receiver = receiver
        self._end: tuple[type[Exception], Any] | None = None  # not the exception, which would keep its frames alive

    def receive(self, value: float, step: int, total_steps: int | None) -> None:
        if self._end is not None:
            kind, args = self._end
            raise kind(*args)
        try:
            self._receiver(value, step, total_steps)
        except (Pruned, Interrupted) as error:
            self._end = type(error), error.args
            raise


_listener: _Listener | None = None


def _check_value(value: Any) -> None:
    """Refuse what is no single real number, without reading it: a tensor may have to come from a GPU first.

    Raises:
        TypeError: If it is anything else.
    """
    kind, dtype = type(value).__name__, str(getattr(value, "dtype", ""))
    if isinstance(value, bool) or "bool" in dtype or "complex" in dtype or not hasattr(value, "__float__"):
        raise TypeError(f"report: value: {value!r} is a {kind}, not a real number; report a loss or a score")
    if math.prod(shape := tuple(getattr(value, "shape", ()))) != 1:
        raise TypeError(f"report: value: a {kind} of shape {shape} is no single number; report its mean")


def _to_float(value: Any) -> float:
    """Convert a number, tensor or array of one element.

    Raises:
        TypeError: If it cannot be converted.
    """
    try:
        return float(value.item() if hasattr(value, "item") else value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise TypeError(f"report: value: {value!r} cannot be converted to a float: {error}") from error


def _read_count(name: str, value: Any, least: int) -> int:
    """Return an integer.

    Raises:
        TypeError: If it is none.
        ValueError: If it is less than `least`.
    """
    try:
        if isinstance(value, bool) or "bool" in str(getattr(value, "dtype", "")):
            raise TypeError
        count = operator.index(value)
    except (TypeError, ValueError):
        kind = type(value).__name__
        raise TypeError(f"report: {name}: {value!r} is a {kind}, not an integer; count steps or epochs") from None
    if count < least:
        hint = "count steps or epochs from 0 or 1" if name == "step" else "leave it out if it is unknown"
        raise ValueError(f"report: {name}: {count} is less than {least}; {hint}")
    return count
