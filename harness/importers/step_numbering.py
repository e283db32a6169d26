"""Steps as others number them, made those of the whole run."""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise


class StepCounter:
    """Steps of the run, where those of a log may begin anew in every epoch."""

    def __init__(self) -> None:
        self._offsets: dict[float, int] = {}
        """Steps of the run before those of an epoch."""
        self._epoch: float | None = None
        self._latest, self._gap = 0, 1

    def __call__(self, step: int, epoch: float | None = None, of: float | None = None) -> int:
        """`of` are the steps of an epoch, where they are told. Without an `epoch` it is that of the step before."""
        epoch = self._epoch if epoch is None else epoch
        if epoch not in self._offsets:
            self._offsets[epoch] = self._epoch_offset(step, epoch, of)
        at = self._offsets[epoch] + step
        self._gap = at - self._latest if at > self._latest else self._gap
        self._epoch, self._latest = epoch, at
        return at

    def _epoch_offset(self, step: int, epoch: float | None, of: float | None) -> int:
        if not self._offsets:
            return 0
        before = self._offsets[self._epoch]
        if self._epoch is None or epoch < self._epoch or before + step > self._latest:
            return before
        if of:
            return round((epoch - min(one for one in self._offsets if one is not None)) * of)
        return self._latest + (self._gap if step <= 0 else 0)  # counted from 0


def infer_epochs(steps: Sequence[float | None]) -> list[int] | None:
    """The epoch of each row, where its steps begin anew at the same number after the same number every time, the last
    perhaps sooner; None where they do not. None for a row that tells nothing."""
    known = [step for step in steps if step is not None]
    falls = [(one, other) for one, other in pairwise(known) if other < one]
    ends = {end for end, _ in falls}
    if not falls or {begin for _, begin in falls} != {known[0]} or len(ends) > 1 or known[-1] > ends.pop():
        return None
    return list(_count_epochs(steps))


def _count_epochs(steps: Sequence[float | None]) -> Iterator[int]:
    epoch, latest = 0, -math.inf
    for step in steps:
        epoch += step is not None and step < latest
        latest = latest if step is None else step
        yield epoch


def sort_by_step(points: Sequence[tuple[int, float]]) -> Sequence[tuple[int, float]]:
    """By their steps, where these are all different, so that nothing but their order can be wrong."""
    return sorted(points) if len({step for step, _ in points}) == len(points) else points


def round_step(value: float, location: str) -> int:
    """A step; ValueError, with the place and the remedy, for what is no number."""
    if not math.isfinite(value):
        raise ValueError(f"{location}: the step is {value}; give it a number, or leave that row out")
    return round(value)
