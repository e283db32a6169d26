"""Handlers of SIGINT (Ctrl-C), SIGTERM and SIGHUP, for each phase of a command. Imports nothing slow.

1. While modules are imported, a signal ends the process at once, since an exception would end in a traceback.
2. From then on it raises KeyboardInterrupt, so that what is half done is cleaned up.
3. While a run is recorded it only stops the training: the record is completed.
4. While an upload is awaited it raises KeyboardInterrupt again.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

STOP_SIGNALS: tuple[signal.Signals, ...] = (signal.SIGINT, signal.SIGTERM)
if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup ignores it, and it must stay ignored
    STOP_SIGNALS += (signal.SIGHUP,)  # the terminal was closed
RETRY_SECONDS = 0.01
INTERRUPT_STATUS = 128 + signal.SIGINT
"""Exit status after a KeyboardInterrupt that no handler of ours raised."""

_received: list[int] = []  # every stop signal
_interrupts: list[int] = []  # those that raised KeyboardInterrupt
_final_statuses: list[int] = []  # of `end_before_teardown`


def exit_on_signals() -> None:
    """End the process with a message at a signal, from now until `interrupt_on_signals`."""
    atexit.register(_exit_before_teardown)  # the first to be registered runs last
    for number in STOP_SIGNALS:
        signal.signal(number, _exit_now)


def interrupt_on_signals() -> None:
    """Raise KeyboardInterrupt at a signal, if `exit_on_signals` was called: a library leaves signals alone.

    A second signal ends the process at once.
    """
    if signal.getsignal(signal.SIGINT) is not _exit_now:
        return
    sys.unraisablehook = _raise_again
    for number in (*STOP_SIGNALS, signal.SIGALRM):
        signal.signal(number, _interrupt)


def end_before_teardown(status: int) -> None:
    """Have this process end with `status` once its exit handlers have run, if `exit_on_signals` was called.

    While Python tears down its objects, a thread of gloo that still holds a tensor aborts the process
    (https://github.com/pytorch/pytorch/pull/179291).
    """
    _final_statuses.append(status)


def ignore_signals() -> None:
    """Ignore signals while Python shuts down."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def was_interrupted() -> bool:
    """Return whether a signal has raised KeyboardInterrupt, which other code may have turned into another exception."""
    return bool(_interrupts)


def record_signal(number: int) -> None:
    """Remember a stop signal for `was_signaled` and `failure_status`."""
    _received.append(number)


def count_signals() -> int:
    """Return the number of stop signals that were received."""
    return len(_received)


def was_signaled(n_before: int = 0) -> bool:
    """Return whether a stop signal was received, after the first `n_before`, even if too late to interrupt a run."""
    return len(_received) > n_before


def failure_status(default: int = 1) -> int:
    """Return the exit status of a command that did not succeed: 128 + the number of the first signal, or `default`.

    This is the convention of shells.
    """
    return 128 + _received[0] if _received else default


def _exit_now(number: int, frame: FrameType | None) -> None:
    record_signal(number)
    with suppress(OSError):  # after SIGHUP there is no terminal
        os.write(2, b"interrupted\n")
    os._exit(failure_status())


def _exit_before_teardown() -> None:
    """Exit with the signal's status after an interrupt, or with that of `end_before_teardown`.

    Python would kill itself with SIGINT if the KeyboardInterrupt has passed through `exec`, which dataclasses call.
    """
    if was_interrupted():
        status = failure_status(INTERRUPT_STATUS)
    elif _final_statuses:
        status = _final_statuses[-1]
    else:
        return
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # closed
            stream.flush()
    os._exit(status)


def _interrupt(number: int, frame: FrameType | None) -> None:
    if _interrupts and number != signal.SIGALRM:
        _exit_now(number, frame)
    _interrupts.append(number)
    if number != signal.SIGALRM:
        record_signal(number)
    raise KeyboardInterrupt("interrupted")


def _raise_again(unraisable: "sys.UnraisableHookArgs") -> None:
    """Raise a KeyboardInterrupt again that was lost in a callback, such as a destructor."""
    if issubclass(unraisable.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
    else:
        sys.__unraisablehook__(unraisable)


@contextmanager
def hold_signals() -> Iterator[Callable[[], bool]]:
    """Hold signals back, and yield a function that returns whether one was received.

    After the block the first one is raised again, for the handler of before.
    """
    held: list[int] = []

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        record_signal(number)
        with suppress(OSError):
            print("\nstopping as soon as the record is complete", file=sys.stderr)

    with _use_handler(hold):
        yield lambda: bool(held)
    if held:
        signal.raise_signal(held[0])


@contextmanager
def stop_on_signals(
    message: str = "stopping after this step; press Ctrl-C again to stop at once",
) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a signal was received; a second SIGINT raises KeyboardInterrupt."""
    received: list[int] = []

    def stop(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        record_signal(number)
        with suppress(OSError):
            print(f"\n{message}", file=sys.stderr)

    with _use_handler(stop):
        yield lambda: bool(received)


@contextmanager
def _use_handler(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle the stop signals in a block; outside the main thread, where Python handles no signals, do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, restored in previous.items():
            signal.signal(number, restored)
