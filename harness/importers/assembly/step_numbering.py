"""Conversion of the step numbers in a log to steps of the whole run."""

import math
from collections.abc import Sequence


class StepCounter:
    """Count steps of the whole run where the steps of a log may restart in every epoch.

    Call it for each row in order of time.
    """

    def __init__(self) -> None:
        self._offsets: dict[float | None, int] = {}  # steps of the run before each epoch
        self._epoch: float | None = None
        self._latest, self._gap = 0, 1

    def __call__(self, step: int, epoch: float | None = None, epoch_length: float | None = None) -> int:
        """Return the step of the run at `step` of `epoch`, by default the epoch of the previous row.

        `epoch_length` is in steps, for logs that print it.
        """
        epoch = self._epoch if epoch is None else epoch
        if epoch not in self._offsets:
            self._offsets[epoch] = self._epoch_offset(step, epoch, epoch_length)
        run_step = self._offsets[epoch] + step
        self._gap = run_step - self._latest if run_step > self._latest else self._gap
        self._epoch, self._latest = epoch, run_step
        return run_step

    def _epoch_offset(self, step: int, epoch: float | None, epoch_length: float | None) -> int:
        if not self._offsets:
            return 0
        offset = self._offsets[self._epoch]
        if self._epoch is None or epoch is None or epoch < self._epoch or offset + step > self._latest:
            return offset  # steps do not restart
        if epoch_length:
            return round((epoch - min(known for known in self._offsets if known is not None)) * epoch_length)
        return self._latest + (self._gap if step <= 0 else 0)  # an epoch may count from 0


def sort_by_step(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """Sort the points if all steps differ; repeated steps come from a rollback, where the order matters."""
    return sorted(points) if len({step for step, _ in points}) == len(points) else points


def round_step(value: float, location: str) -> int:
    """Round a step; ValueError, starting with `location`, if it is not finite."""
    if not math.isfinite(value):
        raise ValueError(f"{location}: the step is {value}; set it to a number or delete the row")
    return round(value)
