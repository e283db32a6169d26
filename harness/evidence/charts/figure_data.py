"""The content of a figure, free of how it is drawn."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["baseline", "best", "candidate", "trial", "paused", "pruned", "diverged"]
"""The part that a line or a point plays in a figure; it decides color, dashes and shape."""


@dataclass(frozen=True)
class Line:
    """A curve: points in the order of x; those that are not finite are left out."""

    label: str
    role: Role
    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Curves:
    """Lines over one axis, such as validation losses by tokens."""

    lines: tuple[Line, ...]
    x_label: str
    y_label: str


@dataclass(frozen=True)
class PointGroup:
    """Points of one kind. A trial without a finite value has None as `y` and is marked above the others.

    `x` are numbers, or any values if they are categories; None where a trial has no such value. `names` are shown under
    the pointer.
    """

    label: str
    role: Role
    x: tuple[object, ...]
    y: tuple[float | None, ...]
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Points:
    """Values over one parameter, such as the loss over the learning rate; `is_x_log` None leaves it to the values."""

    groups: tuple[PointGroup, ...]
    x_label: str
    y_label: str
    is_x_log: bool | None = None


@dataclass(frozen=True)
class PointPanels:
    """Values over several parameters, the most important first and largest; all have one axis of values."""

    panels: tuple[Points, ...]


@dataclass(frozen=True)
class Bars:
    """Horizontal bars from zero, the longest first, such as importances."""

    labels: tuple[str, ...]
    values: tuple[float, ...]
    x_label: str
    is_percent: bool = False


@dataclass(frozen=True)
class Interval:
    """A difference with its interval; an end that is not finite is open, a `value` that is not finite unknown.

    Intervals of one label that follow one another share its row; `series` then tells them apart, by marker and legend.
    """

    label: str
    value: float
    low: float
    high: float
    series: str = ""


@dataclass(frozen=True)
class Intervals:
    """Differences to the baseline, around a line at zero; `margin` is that of equivalence, to both sides."""

    rows: tuple[Interval, ...]
    x_label: str
    margin: float | None = None


@dataclass(frozen=True)
class SeedRow:
    """The values of one configuration by seed; `mean` is of the finite ones.

    A value that is not finite is that of a run that diverged; None, of a failed or missing run, is not drawn.
    """

    label: str
    role: Role
    values: tuple[float | None, ...]
    mean: float | None


@dataclass(frozen=True)
class Seeds:
    """Single seeds, in the same order in all rows, and their means; one row a configuration."""

    rows: tuple[SeedRow, ...]
    x_label: str


@dataclass(frozen=True)
class Stages:
    """Values of one configuration at the stages of Gaps; None where unknown."""

    label: str
    values: tuple[float | None, ...]


@dataclass(frozen=True)
class Gaps:
    """Values of configurations at several stages, such as in the sweep, on fresh seeds, and on the test split."""

    stages: tuple[str, ...]
    rows: tuple[Stages, ...]
    x_label: str


FigureData = Curves | Points | PointPanels | Bars | Intervals | Seeds | Gaps
