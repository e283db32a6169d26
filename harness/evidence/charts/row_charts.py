"""Charts of one row for each name: bars, intervals, single seeds, and values at several stages.

A name stands above its row, so that it may be long.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

from harness.evidence.charts.figure_data import Bars, Gaps, Interval, Intervals, SeedRow, Seeds
from harness.evidence.charts.scales import NumberScale, choose_range, is_spread, label_number
from harness.evidence.charts.svg_chart import (
    EDGE,
    LINE,
    Chart,
    LegendEntry,
    Shape,
    break_label,
    draw_legend,
    draw_x_axis,
    measure_text,
)

ROW = 48.0  # height of a name and what is drawn below it
MIDDLE = 32.0  # from the top of a row to the middle of what is drawn
SHIFTS, OVERLAP = (0.0, -7.0, 7.0), 9.0  # of marks that are nearer to each other than their size
SERIES_ROW = 20.0  # height of a further interval of the same name
SERIES_STYLES: tuple[tuple[str, Shape], ...] = (("third", "diamond"), ("first", "circle"), ("second", "square"))
"""In the order in which series appear."""
ROLE_STYLES = {"baseline": "second", "best": "first", "candidate": "first"}
STAGE_STYLES: tuple[tuple[str, Shape], ...] = (
    ("rest open", "circle"), ("second solid", "square"), ("first solid", "diamond"), ("third solid", "down")
)  # fmt: skip


def draw_bars(data: Bars) -> Chart:
    """Return horizontal bars with their values."""
    chart = Chart()
    texts = [f"{value:.0%}" if data.is_percent else label_number(value) for value in data.values]
    room = chart.width - 2 * EDGE - max(map(measure_text, texts), default=0) - 8
    largest = max(data.values, default=0) or 1.0
    for label, value, text in zip(data.labels, data.values, texts, strict=True):
        chart.add_text(EDGE, chart.height + 13, label, width=chart.width - 2 * EDGE)
        end = EDGE + max(1.0, room * value / largest)
        chart.add_rect(EDGE, chart.height + 20, end, chart.height + 34, "first solid")
        chart.add_text(end + 6, chart.height + 32, text, "soft")
        chart.height += ROW
    for line in break_label(data.x_label, chart.width - 2 * EDGE):
        chart.add_text(EDGE, chart.height + 10, line, "soft", width=chart.width - 2 * EDGE)
        chart.height += LINE
    return chart


def draw_intervals(data: Intervals) -> Chart:
    """Return differences with their intervals around a line at zero, with the band of equivalence."""
    chart = Chart()
    ends = [end for row in data.rows for end in (row.value, row.low, row.high)]
    margin = data.margin or 0.0
    found = choose_range([], [0.0, *ends, 1.1 * margin, -1.1 * margin], may_be_log=False)
    scale = NumberScale(found.low, found.high, EDGE + 10, chart.width - EDGE - 10)
    series = list(dict.fromkeys(row.series for row in data.rows))
    styles = dict(zip(series, SERIES_STYLES, strict=False)) if any(series) else {"": ("first", "circle")}
    if any(series):
        draw_legend(chart, [LegendEntry(name, f"{color} line", shape, f"{color} solid")
                            for name, (color, shape) in styles.items()])  # fmt: skip
    if margin:
        text = f"equivalent within ±{label_number(margin)}"
        chart.add_text(scale.place(0), chart.height + 13, text, "middle soft")
        chart.height += LINE
    is_first = [not index or row.label != data.rows[index - 1].label for index, row in enumerate(data.rows)]
    total = sum(ROW if first else SERIES_ROW for first in is_first)
    after = draw_x_axis(chart, scale, chart.height + total, data.x_label, chart.height)
    for row, first in zip(data.rows, is_first, strict=True):
        if first:
            chart.add_text(EDGE, chart.height + 13, row.label, "strong", width=chart.width - 2 * EDGE)
        top = chart.height + (LINE if first else 0.0)  # not behind the name
        chart.height += ROW if first else SERIES_ROW
        if math.isfinite(row.value):
            if margin:
                chart.add_rect(scale.place(-margin), top, scale.place(margin), chart.height, "band")
            chart.add_line(scale.place(0), top, scale.place(0), chart.height, "ink mark")
            _draw_interval(chart, row, scale, chart.height + MIDDLE - ROW, styles[row.series])
        else:
            what = f"{row.series}: " if row.series else ""
            chart.add_text(EDGE, chart.height + MIDDLE - ROW + 4, f"{what}no difference could be computed", "soft halo")
    chart.height = after
    return chart


def _draw_interval(chart: Chart, row: Interval, scale: NumberScale, y: float, style: tuple[str, Shape]) -> None:
    color, shape = style
    left = scale.place(row.low) if math.isfinite(row.low) else scale.start
    right = scale.place(row.high) if math.isfinite(row.high) else scale.end
    chart.add_line(left, y, right, y, f"{color} line")
    for end, place, direction in ((row.low, left, -1), (row.high, right, 1)):
        if math.isfinite(end):
            chart.add_line(place, y - 5, place, y + 5, f"{color} line")
        else:  # an open end
            chart.add_path(f"M{place - 7 * direction:.1f} {y - 5:.1f}L{place:.1f} {y:.1f}"
                           f"L{place - 7 * direction:.1f} {y + 5:.1f}", f"{color} line")  # fmt: skip
    chart.add_mark(shape, scale.place(row.value), y, f"{color} solid", size=5)


def draw_seeds(data: Seeds) -> Chart:
    """Return the values of single seeds as rings and their means as lines; diverged seeds at the right."""
    chart = Chart()
    values = [value for row in data.rows for value in row.values if value is not None and math.isfinite(value)]
    has_diverged = any(value is not None and not math.isfinite(value) for row in data.rows for value in row.values)
    strip = measure_text("diverged") + 4 if has_diverged else 0.0
    found = choose_range(values, may_be_log=is_spread(values))
    scale = NumberScale(found.low, found.high, EDGE + 10, chart.width - EDGE - 10 - strip, found.is_log)
    draw_legend(chart, [LegendEntry("one seed", "", "circle", "ink open"), LegendEntry("mean", "ink thick")])
    top, bottom = chart.height, chart.height + ROW * len(data.rows)
    after = draw_x_axis(chart, scale, bottom, data.x_label, top)
    if has_diverged:
        chart.add_rect(scale.end + 8, top, chart.width - EDGE, bottom, "band")
        chart.add_text((scale.end + 8 + chart.width - EDGE) / 2, top + 13, "diverged", "middle soft")
    _connect_pairs(chart, data.rows, scale)
    for row in data.rows:
        chart.add_text(EDGE, chart.height + 13, row.label, "strong", width=chart.width - 2 * EDGE - strip)
        _draw_seed_row(chart, row, scale)
        chart.height += ROW
    chart.height = after
    return chart


def _connect_pairs(chart: Chart, rows: Sequence[SeedRow], scale: NumberScale) -> None:
    """Connect the values of each seed, if there are two rows; with more, lines could not be told apart."""
    if len(rows) != 2 or len(rows[0].values) != len(rows[1].values):
        return
    y = chart.height + MIDDLE
    tops, bottoms = (_place_seeds(row, scale) for row in rows)
    for seed in tops.keys() & bottoms.keys():
        (x, shift), (other_x, other_shift) = tops[seed], bottoms[seed]
        chart.add_line(x, y + shift, other_x, y + ROW + other_shift, "rest thin")


def _place_seeds(row: SeedRow, scale: NumberScale) -> dict[int, tuple[float, float]]:
    """Return where each finite value of a row is drawn, and how far it is moved up or down, by its place in the row."""
    finite = sorted((value, seed) for seed, value in _list_known(row.values))
    places = [_limit(value, scale) for value, _ in finite]
    return {
        seed: place for (_, seed), place in zip(finite, zip(places, _spread_marks(places), strict=True), strict=True)
    }


def _draw_seed_row(chart: Chart, row: SeedRow, scale: NumberScale) -> None:
    style, y = ROLE_STYLES.get(row.role, "third"), chart.height + MIDDLE
    known = [value for value in row.values if value is not None]
    placed = _place_seeds(row, scale)
    for seed, (x, shift) in placed.items():
        value = row.values[seed] or 0.0
        shape: Shape = "right" if value > scale.high else "left" if value < scale.low else "circle"
        chart.add_mark(shape, x, y + shift, f"{style} open", f"{value:.6g}")
    if n_diverged := len(known) - len(placed):
        middle = (scale.end + 8 + chart.width - EDGE) / 2
        chart.add_text(middle, y + 4.5, f"{n_diverged} of {len(known)}", "middle")
    if row.mean is not None and scale.low <= row.mean <= scale.high:
        x = scale.place(row.mean)
        chart.add_line(x, y - 12, x, y + 12, f"{style} thick")


def _spread_marks(places: Sequence[float]) -> list[float]:
    """Return how far to move each mark up or down, so that those of almost equal values can be told apart."""
    shifts: list[float] = []
    for index, place in enumerate(places):
        near = {shift for other, shift in zip(places[:index], shifts, strict=True) if place - other < OVERLAP}
        shifts.append(next((shift for shift in SHIFTS if shift not in near), 0.0))
    return shifts


def _limit(value: float, scale: NumberScale) -> float:
    return min(max(scale.place(value), scale.start), scale.end)


def draw_gaps(data: Gaps) -> Chart:
    """Return the values of each configuration at all stages, connected in their order."""
    chart = Chart()
    values = [value for row in data.rows for value in row.values if value is not None and math.isfinite(value)]
    found = choose_range(values, values)
    scale = NumberScale(found.low, found.high, EDGE + 10, chart.width - EDGE - 10, found.is_log)
    styles = [STAGE_STYLES[index % len(STAGE_STYLES)] for index in range(len(data.stages))]
    draw_legend(chart, [LegendEntry(stage, "", shape, mark)
                        for stage, (mark, shape) in zip(data.stages, styles, strict=True)])  # fmt: skip
    top, bottom = chart.height, chart.height + ROW * len(data.rows)
    after = draw_x_axis(chart, scale, bottom, data.x_label, top)
    for row in data.rows:
        chart.add_text(EDGE, chart.height + 13, row.label, "strong", width=chart.width - 2 * EDGE)
        y = chart.height + MIDDLE
        known = _list_known(row.values)
        for (_, first), (_, second) in pairwise(known):
            chart.add_line(scale.place(first), y, scale.place(second), y, "rest line")
        for index, value in known:
            classes, shape = styles[index]
            chart.add_mark(shape, scale.place(value), y, classes, f"{data.stages[index]}: {value:.6g}", 5)
        chart.height += ROW
    chart.height = after
    return chart


def _list_known(values: Sequence[float | None]) -> list[tuple[int, float]]:
    return [(index, value) for index, value in enumerate(values) if value is not None and math.isfinite(value)]
