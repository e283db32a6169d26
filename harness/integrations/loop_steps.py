"""Steps of the whole run from what a loop calls its steps and epochs, row by row."""

from typing import Any

from harness.importers.assembly.step_numbering import StepCounter
from harness.importers.metric_aliases import infer_steps_per_epoch

STEPS_PER_FRACTIONAL_EPOCH = 100
"""Steps that stand for an epoch in a loop without steps, if the first epoch that it logs is no integer."""


class LoopSteps:
    """Numbers the rows of a loop.

    - Steps that start over, as they do in every epoch, are counted on.
    - A row without a step, or of an evaluation that is numbered differently, belongs to the latest step.
    - In a loop that logs epochs only, an epoch is a step, or 100 if they are fractions. If the first training row is
      of epoch 0, the epochs count from 0, and a row belongs to the end of its epoch.
    """

    def __init__(self, total_epochs: float | None = None) -> None:
        self.total_epochs = total_epochs
        self._scale = 1  # steps that stand for an epoch
        self._count = StepCounter()
        self._first: int | None = None  # of the training rows, as logged
        self._latest_logged = self._latest = self._restarts = self._shift = 0
        self._has_steps = False
        self._epochs: list[tuple[int, float]] = []

    def number_row(self, step: int | None, epoch: float | None, is_training_row: bool) -> int:
        """Return the step of the run that a row belongs to.

        Raises:
            ValueError: If a step follows rows that had only epochs.
        """
        if step is None and not self._has_steps and epoch is not None:
            return self._number_epoch(epoch, is_training_row)
        if step is not None:
            if not self._has_steps and self._latest > 0:
                raise ValueError("run.log: the rows before had an epoch and no step; give a step in all of them")
            self._has_steps = True
            self._latest = self._number_step(int(step), is_training_row)
        if epoch is not None and is_training_row and (not self._epochs or epoch > self._epochs[-1][1]):
            self._epochs = [*self._epochs[:1], (self._latest, epoch)]
        return self._latest

    def find_facts(self) -> dict[str, Any]:
        """Return the length of the run and of an epoch, as far as they follow from epochs."""
        per_epoch = infer_steps_per_epoch(self._epochs) if self._has_steps else float(self._scale)
        if per_epoch is None or not self._latest:
            return {}
        length = {} if self.total_epochs is None else {"total_steps": round(self.total_epochs * per_epoch)}
        unit = "steps" if self._has_steps else "epochs"
        return {"steps_per_epoch": per_epoch, "steps_unit": unit, "epoch_offset": self._shift, **length}

    def _number_step(self, step: int, is_training_row: bool) -> int:
        if not is_training_row:
            return self._latest if self._first is not None and step < self._latest_logged else max(self._latest, step)
        self._first = step if self._first is None else self._first
        self._restarts += step < self._latest_logged and step <= self._first
        self._latest_logged = step
        return self._count(step, self._restarts)

    def _number_epoch(self, epoch: float, is_training_row: bool) -> int:
        is_integer = hasattr(epoch, "__index__")
        if not self._latest and not is_integer:
            self._scale = STEPS_PER_FRACTIONAL_EPOCH
        elif not self._latest and epoch == 0 and is_training_row:
            self._shift = 1
        self._latest = round((epoch + self._shift) * self._scale)
        return self._latest
