"""Curves over steps or tokens."""

import math
from collections.abc import Sequence

import numpy as np

from harness.evidence.charts.figure_data import Curves, Line
from harness.evidence.charts.scales import NumberScale, choose_range
from harness.evidence.charts.svg_chart import (
    EDGE,
    LINE,
    Chart,
    LegendEntry,
    Shape,
    draw_legend,
    draw_x_axis,
    draw_y_axis,
    measure_text,
    thin_out,
)

HEIGHT = 230.0  # of the panel
MAX_POINTS = 300  # of a line that is named
MAX_OTHERS = 12_000  # points of all other lines together
MANY_LINES = 60  # beyond which the others are drawn paler
BEGINNING = 0.2  # of the axis, which may be cut off
CUT_BELOW = 0.5  # of the span, from which the beginning is cut off
DOTS = 15  # points of a line up to which each is marked
COLORS = ("first", "second", "third", "fourth", "ink")
DASHES = ("", "dash", "dots", "dotdash", "short", "long")
NAMED_STYLES = {"baseline": "second dash line", "best": "first thick"}
ENDS: dict[str, Shape] = {"paused": "circle", "pruned": "down", "diverged": "cross"}


def draw_curves(data: Curves) -> Chart:
    """Return lines over one axis: the named ones in color, other trials in grey, with what ended them early."""
    lines = [line for line in map(_drop_non_finite, data.lines) if line.x]
    chart = Chart()
    if not lines:
        chart.add_text(EDGE, chart.height + 14, "no finite value was recorded", "soft")
        chart.height += LINE
        return chart
    named = [line for line in lines if line.role in ("baseline", "best", "candidate")]
    styles = _choose_styles(named)
    others = [line for line in lines if line.role not in ("baseline", "best", "candidate")]
    draw_legend(chart, _list_legend(named, others, styles))
    chart.add_text(EDGE, chart.height + 12, data.y_label, width=chart.width - 2 * EDGE)
    top = chart.height + LINE + 6
    bottom = top + HEIGHT
    x_scale, y_scale = _choose_scales(named or others, others if named else [], top, bottom)
    left = EDGE + 8 + max((measure_text(text) for _, text in y_scale.choose_ticks()), default=0)
    right = chart.width - EDGE - 6
    x_scale = NumberScale(x_scale.low, x_scale.high, left, right)
    draw_y_axis(chart, y_scale, left, right)
    chart.height = draw_x_axis(chart, x_scale, bottom, data.x_label)
    chart.clip(left, top - 6, chart.width, bottom + 6)
    _draw_others(chart, others, x_scale, y_scale)
    for line, style in zip(named, styles, strict=True):
        _draw_named(chart, line, style, x_scale, y_scale)
    chart.end_clip()
    return chart


def _drop_non_finite(line: Line) -> Line:
    kept = [(x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)]
    return Line(line.label, line.role, tuple(x for x, _ in kept), tuple(y for _, y in kept))


def _choose_styles(named: Sequence[Line]) -> list[str]:
    """Return the classes of each line, of which no two have the same color and dashes."""
    taken = {NAMED_STYLES[line.role].split()[0] for line in named if line.role in NAMED_STYLES}
    colors = [color for color in COLORS if color not in taken]
    styles, index = [], 0
    for line in named:
        if line.role in NAMED_STYLES:
            styles.append(NAMED_STYLES[line.role])
            continue
        turn, place = divmod(index, len(colors))
        styles.append(f"{colors[place]} {DASHES[(place + turn) % len(DASHES)]} line")
        index += 1
    return styles


def _list_legend(named: Sequence[Line], others: Sequence[Line], styles: Sequence[str]) -> list[LegendEntry]:
    entries = [LegendEntry(line.label, style) for line, style in zip(named, styles, strict=True)]
    counts = {role: sum(line.role == role for line in others) for role in ("trial", *ENDS)}
    if counts["trial"]:
        entries.append(LegendEntry(f"{counts['trial']} other", "rest line"))
    entries += [
        LegendEntry(f"{counts[role]} {role}", "rest line", shape, "ink" if role == "diverged" else "ink open")
        for role, shape in ENDS.items()
        if counts[role]
    ]
    return entries


def _choose_scales(
    named: Sequence[Line], others: Sequence[Line], top: float, bottom: float
) -> tuple[NumberScale, NumberScale]:
    """Return the axes; the beginning of the lines is cut off where it leaves little room for the rest."""
    end = max(max(line.x) for line in (*named, *others))
    start = min(min(line.x) for line in (*named, *others))
    start = 0.0 if 0 <= start < 0.5 * end else start
    if start == end:
        start, end = start - 0.5 * (abs(start) or 1), end + 0.5 * (abs(end) or 1)
    late = start + BEGINNING * (end - start)
    finished = [line for line in others if line.role != "diverged"]

    def collect(lines: Sequence[Line], first: float) -> list[float]:
        return [y for line in lines for x, y in zip(line.x, line.y, strict=True) if x >= first]

    whole = choose_range(collect(finished, start), collect(named, start))
    found = choose_range(collect(finished, late), collect(named, late))
    if not collect(named, late) or whole.is_log or found.high - found.low > CUT_BELOW * (whole.high - whole.low):
        found = whole
    return (NumberScale(start, end, 0, 1), NumberScale(found.low, found.high, bottom, top, found.is_log))


def _draw_others(chart: Chart, others: Sequence[Line], x_scale: NumberScale, y_scale: NumberScale) -> None:
    path = ""
    for line in others:
        kept = thin_out(len(line.x), min(MAX_POINTS, MAX_OTHERS // len(others)))
        points = [f"{x_scale.place(line.x[i]):.1f} {_limit(y_scale.place(line.y[i])):.1f}" for i in kept]
        path += "M" + "L".join(points if len(points) > 1 else points * 2)
    if path:
        chart.add_path(path, "rest thin" + (" pale" if len(others) > MANY_LINES else ""))
    for line in others:
        if line.role in ENDS:
            y = min(max(y_scale.place(line.y[-1]), y_scale.end), y_scale.start)
            color, size = ("ink", 3.6) if len(others) <= MANY_LINES else ("rest", 2.6)
            classes = color if line.role == "diverged" else f"{color} open"
            chart.add_mark(ENDS[line.role], x_scale.place(line.x[-1]), y, classes, line.label, size)


def _draw_named(chart: Chart, line: Line, style: str, x_scale: NumberScale, y_scale: NumberScale) -> None:
    kept = thin_out(len(line.x), MAX_POINTS)
    xs = [x_scale.place(line.x[index]) for index in kept]
    ys = [_limit(y_scale.place(line.y[index])) for index in kept]
    chart.add_curve(xs, ys, style)
    if len(kept) <= DOTS:
        for x, y in zip(xs, ys, strict=True):
            chart.add_mark("circle", x, y, f"{style.split()[0]} solid", size=2.2)


def _limit(position: float) -> float:
    """Return a position that is at most far outside of the panel."""
    return float(np.clip(position, -2000, 3000))
