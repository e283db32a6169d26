"""An observer that passes events on to several others."""

import sys
from collections.abc import Callable, Iterable
from contextlib import suppress

from harness.core.credentials import hide_credentials_in_text
from harness.core.events import Event, Observer, RunStart
from harness.core.shortage import ShortageError, describe_shortage


class CompositeObserver(Observer):
    """Pass every event to every observer, and what an observer returns to all of them before the next event.

    An observer that raises is disabled with a warning; the run continues. Only a run that starts on a full disk ends,
    because it would leave no record.
    """

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.observers = list(observers)

    def __call__(self, event: Event) -> None:
        def notify(observer: Observer) -> None:
            try:
                replies = observer(event) or ()
            except OSError as error:
                shortage = describe_shortage(error, event.folder) if isinstance(event, RunStart) else ""
                if shortage:
                    raise ShortageError(shortage) from error
                raise
            for reply in replies:
                self(reply)

        self._call_each(notify)

    def flush(self) -> None:
        for observer in self.observers:
            observer.flush()

    def close(self) -> None:
        self._call_each(lambda observer: observer.close())
        self.observers = []  # a second call does nothing

    def _call_each(self, call: Callable[[Observer], None]) -> None:
        for observer in list(self.observers):
            try:
                call(observer)
            except ShortageError:
                raise
            except Exception as error:
                self.observers.remove(observer)
                name, problem = type(observer).__name__, hide_credentials_in_text(f"{type(error).__name__}: {error}")
                with suppress(OSError):  # stderr may be a file on a full disk
                    print(f"warning: observer {name} is disabled after {problem}", file=sys.stderr)
