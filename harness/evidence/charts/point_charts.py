"""Values of trials over the parameters that were searched."""

import math
from collections import Counter
from collections.abc import Sequence

from harness.evidence.charts.figure_data import PointGroup, PointPanels, Points
from harness.evidence.charts.scales import AxisRange, CategoryScale, NumberScale, Scale, choose_range, is_spread
from harness.evidence.charts.svg_chart import (
    EDGE,
    LINE,
    Chart,
    LegendEntry,
    Shape,
    draw_legend,
    draw_x_axis,
    draw_x_label,
    draw_y_axis,
    measure_text,
)

MAIN_HEIGHT, SMALL_HEIGHT = 210.0, 130.0  # of the panels
STRIP, STRIP_GAP = 26.0, 10.0  # height of the part for trials without a value, and what is left free below it
GAP = 16.0  # between two columns
MAX_CATEGORIES = 12
MAX_LISTED = 8  # different numbers up to which each is labeled
STYLES: dict[str, tuple[str, Shape]] = {
    "trial": ("rest solid", "circle"),
    "paused": ("ink open", "circle"),
    "pruned": ("ink open", "down"),
    "diverged": ("ink", "cross"),
    "candidate": ("third solid", "square"),
    "baseline": ("second solid", "diamond"),
    "best": ("first solid", "star"),
}
"""In the order in which they are drawn."""
BASELINE_LINE = "second dash mark"  # over the whole panel, at the value of the baseline
SIZES = {"trial": 3.6, "paused": 3.2, "pruned": 3.6, "diverged": 3.8, "candidate": 4.5, "baseline": 4.8, "best": 5.2}
DOUBLING = 8.0
"""Ratio of the largest to the smallest of a few values, such as ranks, from which their axis is logarithmic."""
LISTED_SPREAD = 12.0  # of points that share one of a few numbers
INSET = 9.0  # between the axis and the lowest point, so that its mark is whole
OTHER = "other values"


def draw_points(data: Points) -> Chart:
    """Return one panel."""
    return draw_panels(PointPanels((data,)))


def draw_panels(data: PointPanels) -> Chart:
    """Return the first parameter as a large panel, and the others below it in two columns."""
    chart = Chart()
    groups = [group for panel in data.panels for group in panel.groups]
    values = [y for group in groups for y in group.y if y is not None and math.isfinite(y)]
    fixed = [y for group in groups if group.role in ("baseline", "best") for y in group.y if y is not None]
    shown = choose_range(values, fixed)
    entries = _list_legend(data.panels[0].groups)
    if shown.n_above or shown.n_below:
        entries.append(LegendEntry("beyond the axis", "", "up" if shown.n_above else "below", "ink"))
    draw_legend(chart, entries)
    if not values:
        chart.add_text(EDGE, chart.height + 14, "no trial has a value", "soft")
        chart.height += LINE
        return chart
    chart.add_text(EDGE, chart.height + 12, data.panels[0].y_label, width=chart.width - 2 * EDGE)
    chart.height += LINE + 4
    labels = NumberScale(shown.low, shown.high, 1, 0, shown.is_log).choose_ticks()
    has_strip = any(y is None or not math.isfinite(y) for group in groups for y in group.y)
    margin = max(measure_text(text) for _, text in labels) if labels else 0.0
    left = EDGE + 8 + max(margin, measure_text("diverged") if has_strip else 0.0)
    _draw_panel(chart, data.panels[0], shown, (left, chart.width - EDGE - 6, MAIN_HEIGHT), has_strip, True)
    middle = (left + chart.width - EDGE - 6) / 2
    columns = (left, middle - GAP / 2), (middle + GAP / 2, chart.width - EDGE - 6)
    for index in range(1, len(data.panels), 2):
        start = chart.height + 10
        ends = []
        for column, panel in zip(columns, data.panels[index : index + 2], strict=False):
            chart.height = start
            _draw_panel(chart, panel, shown, (*column, SMALL_HEIGHT), has_strip, column is columns[0])
            ends.append(chart.height)
        chart.height = max(ends)
    return chart


def _list_legend(groups: Sequence[PointGroup]) -> list[LegendEntry]:
    return [
        LegendEntry(group.label, BASELINE_LINE if role == "baseline" else "", shape, classes)
        for role, (classes, shape) in reversed(STYLES.items())
        for group in groups
        if group.role == role and group.y
    ]


def _draw_panel(
    chart: Chart, data: Points, shown: AxisRange, box: tuple[float, float, float], has_strip: bool, is_first: bool
) -> None:
    """Add a panel below what is there; `box` is left, right and height, and only the first in a row has labels."""
    left, right, height = box
    top = chart.height + 6 + (STRIP if has_strip else 0)
    bottom = top + height
    y_scale = NumberScale(
        shown.low, shown.high, bottom - INSET, top, shown.is_log, n_ticks=5 if height > SMALL_HEIGHT else 3
    )
    values = [x for group in data.groups for x in group.x if x is not None]
    x_scale = _choose_x_scale(values, data.is_x_log, left, right)
    if is_first:
        draw_y_axis(chart, y_scale, left, right)
    else:
        for y, _ in y_scale.choose_ticks():
            chart.add_line(left, y, right, y, "grid thin")
    if has_strip:
        chart.add_rect(left, top - STRIP, right, top - STRIP_GAP, "band")
        if is_first:
            chart.add_text(left - 6, top - STRIP + 12.5, "diverged", "end soft")
    if isinstance(x_scale, CategoryScale):
        chart.height = _draw_categories(chart, x_scale, bottom, data.x_label)
    else:
        chart.height = draw_x_axis(chart, x_scale, bottom, data.x_label)
    if not values:
        chart.add_text((left + right) / 2, (top + bottom) / 2, "no trial has a value of it", "middle soft halo")
        return
    for value in (y for group in data.groups if group.role == "baseline" for y in group.y):
        if value is not None and math.isfinite(value):
            chart.add_line(left, y_scale.place(value), right, y_scale.place(value), BASELINE_LINE)
    for role, (classes, shape) in STYLES.items():
        for group in data.groups:
            if group.role == role:
                _draw_group(chart, group, x_scale, y_scale, top, classes, shape)


def _choose_x_scale(values: Sequence[object], wants_log: bool | None, left: float, right: float) -> Scale:
    numbers = [float(value) for value in values if isinstance(value, int | float) and _is_number(value)]
    if values and len(numbers) < len(values):
        counts = Counter(map(_name_category, values))
        names = sorted(counts)
        if len(names) > MAX_CATEGORIES:
            names = [*sorted(sorted(names, key=lambda name: -counts[name])[: MAX_CATEGORIES - 1]), OTHER]
        return CategoryScale(tuple(names), left, right)
    different = sorted(set(numbers))
    is_listed = len(different) == 1 or (len(different) <= MAX_LISTED and len(numbers) > 2 * len(different))
    at = tuple(different) if is_listed else ()
    is_doubling = is_listed and different[0] > 0 and different[-1] >= DOUBLING * different[0]
    is_log = is_doubling or is_spread(numbers)
    if wants_log is not None:
        is_log = wants_log and min(numbers, default=0.0) > 0
    low, high = (different[0], different[-1]) if different else (0.0, 1.0)
    if is_log:
        pad = (high / low) ** 0.06 if high > low else 2.0
        return NumberScale(low / pad, high * pad, left, right, True, at)
    pad = 0.06 * (high - low) or abs(high) or 1.0
    return NumberScale(low - pad, high + pad, left, right, False, at, 5 if right - left > 250 else 3)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _name_category(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value) or "''"


def _draw_categories(chart: Chart, scale: CategoryScale, bottom: float, label: str) -> float:
    """Add the axis of categories; names that do not fit side by side stand in a list of rows below it."""
    left, right = scale.start, scale.end
    chart.add_line(left, bottom, right, bottom, "axis thin")
    widest = max(map(measure_text, scale.names))
    y = bottom + 18
    if widest + 6 <= scale.step:
        for x, name in scale.choose_ticks():
            chart.add_text(x, y, name, "middle soft")
    else:
        for index, (x, _) in enumerate(scale.choose_ticks()):
            chart.add_text(x, y, chr(ord("a") + index), "middle soft")
        for index, name in enumerate(scale.names):
            y += LINE - 2
            chart.add_text(left, y, f"{chr(ord('a') + index)}: {name}", "soft", width=right - left)
    return draw_x_label(chart, label, scale, y + LINE) + 6


def _draw_group(
    chart: Chart, group: PointGroup, x_scale: Scale, y_scale: NumberScale, top: float, classes: str, shape: Shape
) -> None:
    names = group.names or ("",) * len(group.x)
    for index, (x, y, name) in enumerate(zip(group.x, group.y, names, strict=True)):
        if x is None:
            continue
        place = _place_x(x, index, x_scale, group.role)
        if y is None or not math.isfinite(y):
            chart.add_mark("cross", place, top - (STRIP + STRIP_GAP) / 2, "ink", name, SIZES["diverged"])
        elif y > y_scale.high:
            chart.add_mark("up", place, top + 2, classes.split()[0], name, 3.4)
        elif y < y_scale.low:
            chart.add_mark("below", place, y_scale.start + 2, classes.split()[0], name, 3.4)
        else:
            chart.add_mark(shape, place, y_scale.place(y), classes, name, SIZES[group.role])


def _place_x(value: object, index: int, scale: Scale, role: str) -> float:
    """Return the position of a value; points of one category or number are spread, in the same way every time."""
    shift = 0.0 if role in ("baseline", "best") else (index * 0.618) % 1 - 0.5  # golden ratio: evenly spread
    if not isinstance(scale, CategoryScale):
        return scale.place(float(value)) + (LISTED_SPREAD * shift if scale.at else 0.0)  # type: ignore[arg-type]
    name = _name_category(value)
    place = scale.place(scale.names.index(name if name in scale.names else OTHER))
    return place + 0.5 * scale.step * shift
