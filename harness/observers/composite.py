"""One observer that stands for several."""

import sys
from collections.abc import Callable, Iterable

from harness.core.events import Event, Observer


class CompositeObserver(Observer):
    """Every event to every observer, and first to all what one answers to it; one that raises is heard no more, and the
    run goes on."""

    def __init__(self, observers: Iterable[Observer]) -> None:
        self.observers = list(observers)

    def __call__(self, event: Event) -> None:
        self._call_each(lambda observer: [self(diagnosis) for diagnosis in observer(event) or ()])

    def close(self) -> None:
        self._call_each(lambda observer: observer.close())

    def _call_each(self, call: Callable[[Observer], object]) -> None:
        for observer in list(self.observers):
            try:
                call(observer)
            except Exception as error:
                self.observers.remove(observer)
                name, said = type(observer).__name__, f"{type(error).__name__}: {error}"
                print(f"warning: the observer {name} is left out from now on: {said}", file=sys.stderr)
