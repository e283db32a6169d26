"""The observer that writes validation and test losses of single examples, for `record_examples=true`."""

import sys
from collections.abc import Sequence

import numpy as np

from harness.core.events import EvalEnd, Event, FinalTest, Observer, RunStart
from harness.record.example_losses import (
    BEST_EXAMPLES,
    FINAL_EXAMPLES,
    TEST_EXAMPLES,
    ExampleLosses,
    write_example_losses,
)


class ExampleWriter(Observer):
    """Write the losses of the last evaluation, those of the best one and of the test to the folder of the run."""

    def __init__(self) -> None:
        self._has_warned = False

    def __call__(self, event: Event) -> None:
        match event:
            case RunStart():
                self._folder = event.folder
                self._validation = event.dataset.get("validation") or event.dataset.get("digest", "")
                self._test = event.dataset.get("digest.test", "")
            case EvalEnd():
                names = (FINAL_EXAMPLES, BEST_EXAMPLES) if event.is_best else (FINAL_EXAMPLES,)
                self._write_losses(event, self._validation, names)
            case FinalTest():
                self._write_losses(event, self._test, (TEST_EXAMPLES,))

    def _write_losses(self, event: EvalEnd | FinalTest, digest: str, names: Sequence[str]) -> None:
        if not event.examples:
            self._warn_once("the task gives no losses of single examples (Mean.examples)")
            return
        losses = ExampleLosses(
            np.concatenate([one.sums for one in event.examples]),
            np.concatenate([one.counts for one in event.examples]),
            event.step,
            event.metrics["loss"].unit,
            digest,
        )
        try:
            for name in names:
                write_example_losses(self._folder / name, losses)
        except OSError as error:
            self._warn_once(f"{error}; will try again at the next evaluation")

    def _warn_once(self, problem: str) -> None:
        if not self._has_warned:
            print(f"warning: record_examples: nothing written: {problem}", file=sys.stderr)
        self._has_warned = True
