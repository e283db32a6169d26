"""Reports of a training to the sweep that runs it: `report(loss, step=step, total_steps=total)` in any loop.

Without a sweep nothing happens, so a script that reports also runs alone. Only the standard library is loaded.

A trial that runs in the worker has a receiver. One that is a process of its own finds the path of a file in its
environment, and appends its reports to it as lines of JSON.
"""

import fcntl
import json
import math
import operator
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from harness.core.ranks import is_first_process, is_helper_process

REPORTS_VARIABLE = "HARNESS_REPORTS"
"""In the environment of a trial that is a process: the path of the file for its reports."""
PRUNED_SUFFIX = ".pruned"
"""In place of the suffix of that file: a file that exists once the trial is pruned."""
PRUNED_LINE = {"pruned": True}
"""The last line of a program that has raised Pruned."""
CHECKPOINT_VARIABLE = "HARNESS_CHECKPOINT"
"""In the environment of a trial that is continued: the checkpoint that it has reported."""

Receiver = Callable[[float, int, int | None, str | None], None]
"""Receive a value, its step, the number of steps if it is known, and the absolute path of a checkpoint if there is one.

It raises Pruned, Paused or Interrupted to end the trial.
"""


class Pruned(Exception):
    """Ends a trial that the sweep's pruner has stopped.

    Let it leave your training function. Where you catch it, to save or close something, raise it again.
    """


class Paused(Exception):
    """Ends a trial that the sweep has paused at a checkpoint, from which it may be continued later.

    Let it leave your training function. Where you catch it, to save or close something, raise it again.
    """


class Interrupted(Exception):
    """Ends a trial because the sweep was asked to stop, as by Ctrl-C. The resumed sweep runs the trial again.

    It continues the trial if a checkpoint was reported.

    Let it leave your training function. Where you catch it, to save or close something, raise it again.
    """


def report(
    value: SupportsFloat,
    *,
    step: SupportsIndex,
    total_steps: SupportsIndex | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> None:
    """Report an intermediate value of the objective; without a sweep, do nothing.

    Of several processes that train together, only the first one reports, and only it gets the exceptions. Tell the
    others that it has ended, or they wait for it; the callbacks for transformers and Lightning do that.

    Args:
        value: A number, or a tensor or array of one element. NaN and infinity are values of a trial that diverges.
        step: The steps or epochs done so far. Of several values of the same step, the first one counts.
        total_steps: The steps or epochs of the whole run. If it is unknown, the trials that have completed tell.
        checkpoint: A file or folder that is completely written, and from which `resume_from` lets the training go on
            after this step. Each trial needs its own. Nothing may change it until the next one is reported.

    Raises:
        Pruned: If the pruner stops the trial, and at each report after that.
        Paused: If the sweep pauses the trial, which has reported a checkpoint, and at each report after that.
        Interrupted: If the sweep was asked to stop, and at each report after that.
        TypeError: If the value is no single number, a step is no integer, or the checkpoint is no path.
        ValueError: If a step is negative or the total is not positive.
    """
    _check_value(value)
    step = _read_count("step", step, least=0)
    total = None if total_steps is None else _read_count("total_steps", total_steps, least=1)
    path = _read_checkpoint(checkpoint)
    listener = _find_listener()
    if listener is not None and listener.process == os.getpid() and is_first_process():
        listener.receive(_to_float(value), step, total, path)


def resume_from() -> str | None:
    """Return the checkpoint from which a trial that was paused or interrupted is to continue.

    None at the start of a training, and without a sweep: begin at the first step. All processes of a trial get the same
    answer.
    """
    path = os.environ.get(CHECKPOINT_VARIABLE)
    return path if path and os.path.exists(path) else None


@contextmanager
def receive_reports(receiver: Receiver, checkpoint: str | None = None) -> Iterator[None]:
    """Pass the reports of this process to `receiver`. Its children have none, also those that are forked.

    `resume_from` returns `checkpoint` meanwhile, in children too.
    """
    global _listener
    before, _listener = _listener, _Listener(receiver)
    path_before = os.environ.pop(CHECKPOINT_VARIABLE, None)
    if checkpoint is not None:
        os.environ[CHECKPOINT_VARIABLE] = checkpoint
    try:
        yield
    finally:
        _listener = before
        os.environ.pop(CHECKPOINT_VARIABLE, None)
        if path_before is not None:
            os.environ[CHECKPOINT_VARIABLE] = path_before


class _Listener:
    """A receiver that ends its trial once and for all: programs may catch every exception and train on."""

    def __init__(self, receiver: Receiver) -> None:
        self.process = os.getpid()
        self._receiver = receiver
        self._end: tuple[type[Exception], Any] | None = None  # not the exception, which would keep its frames alive

    def receive(self, value: float, step: int, total_steps: int | None, checkpoint: str | None) -> None:
        if self._end is not None:
            kind, args = self._end
            raise kind(*args)
        try:
            self._receiver(value, step, total_steps, checkpoint)
        except (Pruned, Paused, Interrupted) as error:
            self._end = type(error), error.args
            raise


class _FileReceiver:
    """Appends reports to the file of a trial, for the first process that reports and as long as it lives.

    A launcher such as torchrun or a shell may stand between the sweep and the program. What cannot be written, as the
    disk is full, is written with a later report, and the program trains on. Checkpoints are ignored: trials of a
    command are not paused.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._pruned_path = path, path.with_suffix(PRUNED_SUFFIX)
        self._file: int | None = None
        self._unwritten = bytearray()
        self._has_warned = False

    def __call__(self, value: float, step: int, total_steps: int | None, checkpoint: str | None) -> None:
        if not self._append({"value": value, "step": step, "total_steps": total_steps}):
            return
        if self._pruned_path.exists():
            self._append(PRUNED_LINE)
            raise Pruned("by the pruner of the sweep")

    def _lock_file(self) -> int | None:
        """Return the open file, after a whole line; None if another process has locked it."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return None
        except OSError:
            pass  # a file system without locks
        size = os.fstat(file).st_size
        if size and os.pread(file, 1, size - 1) != b"\n":  # a process that was killed has left half a line
            self._unwritten[:0] = b"\n"
        return file

    def _append(self, line: dict[str, Any]) -> bool:
        """Write a line, at once or later; return False if another process reports."""
        self._unwritten += json.dumps(line).encode() + b"\n"
        try:
            if self._file is None:
                self._file = self._lock_file()
            if self._file is None:
                self._unwritten.clear()
                return False
            while self._unwritten:
                del self._unwritten[: os.write(self._file, self._unwritten)]
        except OSError as error:
            self._warn(error)
        return True

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            with suppress(OSError):  # stderr may be a file on the same disk
                print(f"warning: {self._path}: {error.strerror}; will report later", file=sys.stderr)
        self._has_warned = True


_listener: _Listener | None = None


def _find_listener() -> _Listener | None:
    """Return who listens in this process; for a trial that is a process of its own, its file."""
    global _listener
    path = os.environ.get(REPORTS_VARIABLE)
    if _listener is None and path and not is_helper_process():
        _listener = _Listener(_FileReceiver(Path(path)))
    return _listener


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


def _read_checkpoint(given: Any) -> str | None:
    """Return the absolute path of a checkpoint; None if there is none, also for the empty text of Lightning.

    Raises:
        TypeError: If it is no path.
    """
    if given is None or given == "":
        return None
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str):
        kind = type(given).__name__
        raise TypeError(f"report: checkpoint: {given!r} is a {kind}, not a path; save it, and report its path")
    return os.path.abspath(path)


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
