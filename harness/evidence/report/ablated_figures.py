"""The figure of an ablation: the effects of single changes with their intervals, both ways."""

import math

from harness.evidence.charts.figure_data import Interval, Intervals
from harness.evidence.report.ablated_values import ALL_CHANGES, KINDS, Ablated
from harness.evidence.report.document import Bare, Block, Name, ReportFigure, Text
from harness.evidence.report.phrases import join_spans
from harness.evidence.report.verdict_check import read_float


def draw_effects(ablated: Ablated) -> list[Block]:
    """Return all changes together, and each alone and on top of the others; nothing if no difference is known."""
    rows, alt = [], []
    for effect in ablated.list_measured():
        is_whole = effect["kind"] == "gain"
        name, series = (ALL_CHANGES, "together") if is_whole else (str(effect["change"]), KINDS[effect["kind"]])
        value, low, high = (_read_number(effect[key]) for key in ("difference", "low", "high"))
        rows.append(Interval(name, value, low, high, series))
        if math.isfinite(value):
            numbers = ablated.add_effect(effect)
            ends = (numbers.difference, " from ", Bare(numbers.low), " to ", Bare(numbers.high))
            alt.append((Name(name), f" {series} ", *ends))
    if not alt:
        return []
    label = ablated.label
    axis = f"difference of {label}{f' ({ablated.unit})' if ablated.unit else ''}"
    side = "right" if ablated.is_maximized else "left"
    caption: Text = (
        "The difference that each change makes, with its interval: ", Name(label), f"; to the {side} of zero favors "
        "the change. An interval that contains zero shows no effect. Where the two of a change are far apart, its "
        "effect depends on the others.",
    )  # fmt: skip
    text: Text = ("Effects of the changes with their intervals: ", *join_spans(alt, "; "), ".")
    return [ReportFigure("effects", Intervals(tuple(rows), axis), text, caption, (ablated.place,))]


def _read_number(value: object) -> float:
    number = read_float(value)
    return math.nan if number is None else number
