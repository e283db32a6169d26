"""Position in the run of the lines of a growing output, from the steps, epochs and bars that it has shown so far."""

import math
from dataclasses import dataclass

from harness.importers.assembly.step_numbering import StepCounter
from harness.importers.named_values.curves import Moment

MAX_POSITION = 1e12


@dataclass(slots=True)
class LinePosition:
    """Position in one line; `step_of` and `epoch_of` are the N of n/N, the totals have names of their own."""

    step: float | None = None
    step_of: float | None = None
    epoch: float | None = None
    epoch_of: float | None = None
    total_steps: float | None = None
    total_epochs: float | None = None
    is_bar: bool = False
    counts_run: bool = False  # n/N counts over the run, though there are epochs


class RunPosition:
    """Follows the position from line to line. Values without a position belong to the latest one."""

    def __init__(self) -> None:
        self.latest = Moment()
        self.latest_is_used = False  # a value was measured at a step
        self._total_steps: float | None = None
        self._total_epochs: float | None = None
        self._counter = StepCounter()
        self._epoch: float | None = None
        self._has_epoch_0 = self._has_fractions = False
        self._last_step: float | None = None  # as logged
        self._epoch_of_last_step: float | None = None
        self._restarts: bool | None = None  # whether steps begin again in every epoch; None if that is not known yet
        self._bar: tuple[float, float] | None = None  # n and N of the bar of the training
        self._run_lengths: set[float] = set()  # the N of n/N that count over the run
        self._n_restarts = 0  # of steps, where there are no epochs
        self._run_length: float | None = None  # the latest of these
        self._is_bar_used = False  # values were measured beside it

    def note_value(self) -> None:
        """Note that a value was read at the latest position."""
        self._is_bar_used = self._bar is not None
        self.latest_is_used = self.latest_is_used or self.latest.step is not None

    def begin_at(self, line: LinePosition) -> None:
        """Forget the steps or epochs of earlier lines: the first line with values has its own."""
        if line.is_bar:
            return
        if line.step is not None:
            self._counter, self._last_step, self._epoch_of_last_step = StepCounter(), None, None
            self._n_restarts, self._restarts, self.latest = 0, None, Moment()
        if line.epoch is not None:
            self._epoch, self._has_epoch_0, self._has_fractions = None, False, False

    def move_to(self, line: LinePosition) -> Moment:
        """Return where a line with this position belongs."""
        if line.is_bar and line.step is not None and line.epoch is None and not self._follows_bar(line):
            return self.latest
        self._total_steps = _valid_total(line.total_steps) or self._total_steps
        self._total_epochs = _valid_total(line.epoch_of) or _valid_total(line.total_epochs) or self._total_epochs
        if line.step_of is not None and ((self._epoch is None and line.epoch is None) or line.counts_run):
            self._run_lengths.add(line.step_of)
        if line.epoch is not None and 0 <= line.epoch < MAX_POSITION:
            self._epoch = line.epoch
            self._has_epoch_0 |= line.epoch == 0
            self._has_fractions |= line.epoch % 1 != 0
        step = line.step if line.step is not None and abs(line.step) < MAX_POSITION else None
        if step is not None:
            self._find_restart(step)
        run_step = self._count_step(step, line)
        share = self._find_share(run_step, step, line)
        self.latest = Moment(run_step, share if share is not None else (self.latest.share if step is None else None))
        return self.latest

    def _follows_bar(self, line: LinePosition) -> bool:
        """Return whether a bar is that of the training rather than one of a preparation or an evaluation."""
        step, length = line.step or 0.0, line.step_of or math.inf
        known = self._bar
        is_same = known is None or known[1] == length
        if is_same or (known is not None and known[0] >= known[1] and not self._is_bar_used):
            self._bar = (step, length)
            return True
        return False

    def _find_restart(self, step: float) -> None:
        """Find out, at the first step of another epoch, whether steps count within epochs."""
        known, before = self._last_step, self._epoch_of_last_step
        if self._epoch is None and known is not None and step < known:
            self._n_restarts += 1  # steps begin again in epochs that nothing counts
            self._run_length = None
        if known is not None and before is not None and self._epoch is not None and self._epoch > before:
            self._restarts = step <= known
        self._last_step, self._epoch_of_last_step = step, self._epoch

    def _count_step(self, step: float | None, line: LinePosition) -> int | None:
        whole_epoch = self._epoch if self._epoch is not None and not self._has_fractions else None
        if self._epoch is None and self._n_restarts:
            whole_epoch = float(self._n_restarts)
        if step is not None:
            length = line.step_of if self._is_within_epoch(line) or self._n_restarts else None
            return self._counter(round(step), whole_epoch, length)
        if self._last_step is not None:
            return self.latest.step
        return round(whole_epoch) if whole_epoch is not None else self.latest.step

    def _is_within_epoch(self, line: LinePosition) -> bool:
        """Return whether the N of n/N is the length of an epoch."""
        has_epochs = self._epoch is not None and not self._has_fractions
        is_of_run = self._restarts is False or line.step_of in self._run_lengths
        return has_epochs and line.step_of is not None and not is_of_run

    def _find_share(self, run_step: int | None, step: float | None, line: LinePosition) -> float | None:
        share: float | None = None
        within = self._is_within_epoch(line)
        if self._total_steps and step is not None and (run_step or 0) > self._total_steps + 1:
            self._total_steps = None  # it counts something else
        if step is not None and self._total_steps and run_step is not None:
            share = run_step / self._total_steps
        elif step is not None and line.step_of and not within and not self._n_restarts:
            share, self._run_length = step / line.step_of, line.step_of
        elif step is not None and line.step_of is None and self._run_length and self._restarts is not True:
            share = step / self._run_length
        elif self._epoch is not None and self._total_epochs:
            begun = self._epoch if self._has_epoch_0 or self._has_fractions else self._epoch - 1
            if self._has_fractions:
                share = self._epoch / self._total_epochs
            elif step is None:
                share = (begun + 1) / self._total_epochs
            else:
                share = (begun + (step / line.step_of if line.step_of else 0.0)) / self._total_epochs
        return None if share is None else min(1.0, max(0.0, share))


def _valid_total(value: float | None) -> float | None:
    return value if value is not None and 0 < value < MAX_POSITION else None
