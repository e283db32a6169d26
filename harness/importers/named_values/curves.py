"""Curves of named values as they are read: one for each name, with steps and shares of the run."""

import math
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from harness.importers.named_values.value_names import ValueName

LAST_LINE = "last line"  # the name of a number that stands alone there
MAX_NAMES = 3_000
"""Names beyond these are not kept; a dump of a configuration or of weights has more."""


class CurvePoint(NamedTuple):
    """A value at a step, and at a share of the run, 0 to 1, where the length of the run is known."""

    step: int
    value: float
    share: float | None = None


class Moment(NamedTuple):
    """Position of a line in the run; None where nothing states it."""

    step: int | None = None
    share: float | None = None


@dataclass
class NamedCurve:
    """The values of one name in the order in which they were read."""

    name: ValueName
    is_summary: bool = False  # its values say something of the whole run
    is_setting: bool = False  # its values were printed before the program began to measure
    form: object = None  # of the line with the last value
    steps: array = field(default_factory=lambda: array("q"))
    shares: array = field(default_factory=lambda: array("d"))
    values: array = field(default_factory=lambda: array("d"))

    def __len__(self) -> int:
        return len(self.values)

    def add(self, value: float, moment: Moment) -> None:
        """Add a value; without a step it is counted."""
        step = moment.step
        if step is None:
            step = (self.steps[-1] if self.steps else 0) + 1
        self.steps.append(step)
        self.shares.append(math.nan if moment.share is None else moment.share)
        self.values.append(value)

    def ends_with(self, value: float, moment: Moment) -> bool:
        """Return whether the last value is this one, at the same step."""
        return bool(self.values) and self.values[-1] == value and self.steps[-1] == moment.step

    def clear(self) -> None:
        """Drop the values: they were settings of the same name."""
        del self.steps[:], self.shares[:], self.values[:]

    def iterate_points(self, start: int = 0) -> Iterator[CurvePoint]:
        for at in range(start, len(self.values)):
            share = self.shares[at]
            yield CurvePoint(self.steps[at], self.values[at], None if math.isnan(share) else share)


@dataclass
class NamedCurves:
    """The curves that were read so far, by the key of their names, and a number that stands alone in the last line."""

    by_key: dict[str, NamedCurve] = field(default_factory=dict)
    last_bare: float | None = None

    def find_or_add(self, name: ValueName, is_summary: bool = False, is_setting: bool = False) -> NamedCurve | None:
        """Return the curve of a name, a new one if it has none; None if there are too many."""
        curve = self.by_key.get(name.key)
        if curve is None and len(self.by_key) < MAX_NAMES:
            curve = self.by_key[name.key] = NamedCurve(name, is_summary, is_setting)
        return curve

    def make_bare_curve(self) -> NamedCurve:
        """Return the number in the last line as a curve of one point."""
        curve = NamedCurve(ValueName(LAST_LINE))
        if self.last_bare is not None:
            curve.add(self.last_bare, Moment())
        return curve

    def __iter__(self) -> Iterator[NamedCurve]:
        return iter(self.by_key.values())
