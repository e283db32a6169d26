"""A chart as SVG, drawn panel by panel from top to bottom.

Colors are variables of CSS, so that one chart serves light and dark pages and prints; series also differ in dashes and
shapes. A chart has no ids, so that a page may hold many. Text has the browser's fonts: its width is an estimate.
"""

import html
import math
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

from harness.evidence.charts.scales import Scale

WIDTH = 440  # of every chart, in units of its own: as wide as a phone, so that text keeps its size there
SIZE = 13.5  # of text
LINE = 18.0  # height of a line of text
MAX_FITTED = 300  # characters of a text that may be drawn
EDGE = 8.0  # of the chart, left free
Shape = Literal["circle", "cross", "star", "diamond", "square", "down", "up", "below", "left", "right"]
LIGHT = {
    "paper": "#fff", "ink": "#1a1a1a", "soft": "#565b63", "grid": "#dfe2e6", "rest": "#9aa0a8", "band": "#e9edf2",
    "first": "#0063a6", "second": "#b84a00", "third": "#00785a", "fourth": "#9b3d7c",
}  # fmt: skip
"""Colors after Okabe and Ito (2008), darkened to a contrast of at least 4.5 to 1 on the paper."""
DARK = {
    "paper": "#15181c", "ink": "#e8eaed", "soft": "#aab0b8", "grid": "#343a42", "rest": "#7d858f", "band": "#252b33",
    "first": "#62b5f0", "second": "#f29a57", "third": "#4cc9a0", "fourth": "#e08fc3",
}  # fmt: skip
IS_DARK = "@media screen and (prefers-color-scheme: dark)"  # a print is light
CHART_STYLE = """
.chart text { font: 13.5px system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  fill: var(--ink); }
.chart .soft { fill: var(--soft); } .chart .strong { font-weight: 600; }
.chart .strong, .chart .halo { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
.chart .middle { text-anchor: middle; } .chart .end { text-anchor: end; }
.chart .rest { color: var(--rest); } .chart .first { color: var(--first); } .chart .second { color: var(--second); }
.chart .third { color: var(--third); } .chart .fourth { color: var(--fourth); } .chart .ink { color: var(--ink); }
.chart .grid { color: var(--grid); } .chart .axis { color: var(--soft); }
.chart path, .chart polyline { fill: none; stroke: currentColor; } .chart circle { stroke: currentColor; }
.chart .solid { fill: currentColor; } .chart .band { fill: var(--band); }
.chart .open, .chart .paper { fill: var(--paper); }
.chart .thin { stroke-width: 1; } .chart .mark { stroke-width: 1.6; } .chart .line { stroke-width: 2.2; }
.chart .thick { stroke-width: 3; } .chart .pale { opacity: .55; }
.chart .dash { stroke-dasharray: 7 4; } .chart .long { stroke-dasharray: 12 4; }
.chart .short { stroke-dasharray: 4 4; } .chart .dots { stroke-dasharray: 2 3; }
.chart .dotdash { stroke-dasharray: 9 3 2 3; }
"""


def list_variables() -> str:
    """Return the colors as variables of CSS, for a page with charts."""
    light, dark = (" ".join(f"--{name}: {color};" for name, color in colors.items()) for colors in (LIGHT, DARK))
    return f":root {{ color-scheme: light dark; {light} }}\n{IS_DARK} {{ :root {{ {dark} }} }}\n"


def _write_file_style() -> str:
    """Return the style of a chart in a file of its own, without variables, which many programs do not know."""
    light, dark = CHART_STYLE, CHART_STYLE
    for name in LIGHT:
        light, dark = light.replace(f"var(--{name})", LIGHT[name]), dark.replace(f"var(--{name})", DARK[name])
    return f"{light}{IS_DARK} {{ {dark} }}"


def measure_text(text: str) -> float:
    """Return an estimate of the width of a text, on the wide side: that of DejaVu Sans."""
    return sum(map(_measure_character, text)) * SIZE


def _measure_character(char: str) -> float:
    if unicodedata.combining(char):
        return 0.0
    if unicodedata.east_asian_width(char) in "WF":
        return 1.05
    if char in "iljI.,:;'|!()[] ftr/":
        return 0.4
    return 0.98 if char in "mMW@%—" else 0.75 if char.isupper() or char in "w+±=<>~…" else 0.63


def fit_text(text: str, width: float) -> str:
    """Return a text with its middle left out where it is too wide."""
    if len(text) > MAX_FITTED:
        text = text[: MAX_FITTED // 2] + text[-MAX_FITTED // 2 :]
    if measure_text(text) <= width:
        return text
    kept = len(text) - 1
    while kept > 2 and measure_text(_leave_out_middle(text, kept)) > width:
        kept -= 1
    return _leave_out_middle(text, kept)


def _leave_out_middle(text: str, kept: int) -> str:
    return f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"


def escape(text: str) -> str:
    """Return a text for SVG and HTML, without the characters that XML cannot hold."""
    allowed = (char if char.isprintable() or char == " " else "\ufffd" for char in text)
    return html.escape("".join(allowed))


def break_label(text: str, width: float, max_lines: int = 2) -> list[str]:
    """Return the lines of a text, broken between words; the middle of the last is left out where it is too wide."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if measure_text(longer) <= width or not lines[-1] or len(lines) == max_lines:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


class Chart:
    """A chart that grows downwards; `height` is where the next part begins."""

    def __init__(self, width: float = WIDTH) -> None:
        self.width = width
        self.height = EDGE
        self._parts: list[str] = []

    def add(self, part: str) -> None:
        self._parts.append(part)

    def add_text(self, x: float, y: float, text: str, classes: str = "", *, width: float | None = None) -> None:
        """Add a text on the baseline `y`; the whole of one that is cut to `width` is shown under the pointer."""
        shown = text if width is None else fit_text(text, width)
        half = measure_text(shown) / 2
        if "middle" in classes:  # kept within the chart
            x = max(min(x, self.width - half - 2), half + 2)
        title = "" if shown == text else f"<title>{escape(text)}</title>"
        self.add(f'<text x="{_number(x)}" y="{_number(y)}"{_class(classes)}>{title}{escape(shown)}</text>')

    def add_path(self, path: str, classes: str) -> None:
        self.add(f'<path d="{path}"{_class(classes)}/>')

    def add_line(self, x1: float, y1: float, x2: float, y2: float, classes: str) -> None:
        self.add_path(f"M{_number(x1)} {_number(y1)}L{_number(x2)} {_number(y2)}", classes)

    def add_curve(self, xs: Sequence[float], ys: Sequence[float], classes: str) -> None:
        points = " ".join(f"{_number(x)},{_number(y)}" for x, y in zip(xs, ys, strict=True))
        self.add(f'<polyline points="{points}"{_class(classes)}/>')

    def add_rect(self, left: float, top: float, right: float, bottom: float, classes: str) -> None:
        self.add(f'<rect x="{_number(left)}" y="{_number(top)}" width="{_number(max(0.0, right - left))}" '
                 f'height="{_number(max(0.0, bottom - top))}"{_class(classes)}/>')  # fmt: skip

    def add_mark(self, shape: Shape, x: float, y: float, classes: str, title: str = "", size: float = 4.5) -> None:
        """Add a marker; `title` is shown under the pointer."""
        body = f"<title>{escape(title)}</title>" if title else ""
        end = f">{body}</{{}}>" if body else "/>"
        if shape == "circle":
            self.add(f'<circle cx="{_number(x)}" cy="{_number(y)}" r="{size:g}"{_class("mark " + classes)}'
                     + end.format("circle"))  # fmt: skip
        else:
            self.add(f'<path d="{_outline(shape, x, y, size)}"{_class("mark " + classes)}' + end.format("path"))

    def clip(self, left: float, top: float, right: float, bottom: float) -> None:
        """Begin a part of which only what lies in this rectangle is drawn, up to `end_clip`."""
        box = " ".join(map(_number, (left, top, right - left, bottom - top)))
        x, y, width, height = box.split()
        self.add(f'<svg x="{x}" y="{y}" width="{width}" height="{height}" viewBox="{box}">')

    def end_clip(self) -> None:
        self.add("</svg>")

    def render(self, name: str, *, is_file: bool = False) -> str:
        """Return the SVG with its accessible name, for a page with CHART_STYLE or as a file of its own."""
        box = f'viewBox="0 0 {_number(self.width)} {_number(self.height + EDGE / 2)}"'
        head = f'<svg class="chart" {box} preserveAspectRatio="xMinYMin" role="img" aria-label="{escape(name)}"'
        if is_file:
            head += ' xmlns="http://www.w3.org/2000/svg"'
            paper = '<rect class="paper" width="100%" height="100%"/>'
            style = f"<style>{_write_file_style()}</style>{paper}"
            return f"{head}><title>{escape(name)}</title>{style}\n" + "\n".join(self._parts) + "\n</svg>\n"
        return head + ">" + "".join(self._parts) + "</svg>"


class LegendEntry(NamedTuple):
    """A series in the legend: a line of the classes `line`, a mark of the classes `mark`, or both."""

    text: str
    line: str = ""
    shape: Shape | None = None
    mark: str = ""


def draw_legend(chart: Chart, entries: Sequence[LegendEntry]) -> None:
    """Add rows of entries below what is there."""
    x, mark, gap = EDGE, 24.0, 16.0
    for entry in entries:
        room = chart.width - 2 * EDGE - mark
        width = mark + min(measure_text(entry.text), room)
        if x > EDGE and x + width > chart.width - EDGE:
            x, chart.height = EDGE, chart.height + LINE
        y = chart.height + LINE / 2
        if entry.line:
            chart.add_line(x, y, x + 19, y, entry.line)
        if entry.shape:
            chart.add_mark(entry.shape, x + 9.5, y, entry.mark)
        chart.add_text(x + mark, y + 5, entry.text, width=room)
        x += width + gap
    if entries:
        chart.height += LINE + 4


def draw_x_axis(chart: Chart, scale: Scale, bottom: float, label: str, top: float | None = None) -> float:
    """Add the line, its labels and grid lines up to `top`; return where the space below begins."""
    ticks = scale.choose_ticks()
    for x, _ in ticks:
        if top is not None:
            chart.add_line(x, top, x, bottom, "grid thin")
        chart.add_line(x, bottom, x, bottom + 4, "axis thin")
    chart.add_line(scale.start, bottom, scale.end, bottom, "axis thin")
    room = min((abs(second[0] - first[0]) for first, second in pairwise(ticks)),
               default=scale.end - scale.start)  # fmt: skip
    widest = max((measure_text(text) for _, text in ticks), default=0)
    y = bottom + 18
    every = max(1, math.ceil((widest + 6) / room)) if room else 1
    for x, text in ticks[::every]:
        chart.add_text(x, y, text, "middle soft")
    return draw_x_label(chart, label, scale, y + LINE) + 6


def draw_x_label(chart: Chart, label: str, scale: Scale, y: float) -> float:
    """Add the name of an axis below its labels, from the baseline `y`; return the last baseline."""
    width = scale.end - scale.start + 2 * EDGE
    lines = break_label(label, width)
    for index, line in enumerate(lines):
        chart.add_text((scale.start + scale.end) / 2, y + LINE * index, line, "middle", width=width)
    return y + LINE * (len(lines) - 1)


def draw_y_axis(chart: Chart, scale: Scale, left: float, right: float) -> None:
    """Add grid lines with their labels at the left."""
    last = math.inf
    for y, text in scale.choose_ticks():
        chart.add_line(left, y, right, y, "grid thin")
        if abs(last - y) >= 0.9 * LINE:
            chart.add_text(left - 6, y + 4.5, text, "end soft")
            last = y


def thin_out(n_points: int, n_kept: int) -> np.ndarray:
    """Return indices of at most `n_kept` points, the first and the last among them."""
    return np.unique(np.linspace(0, n_points - 1, min(n_points, max(2, n_kept))).round().astype(int))


def _outline(shape: Shape, x: float, y: float, size: float) -> str:
    corners: list[tuple[float, float] | None]
    match shape:
        case "cross":
            corners = [(-1, -1), (1, 1), None, (-1, 1), (1, -1)]
        case "down":
            corners = [(-1.1, -0.8), (1.1, -0.8), (0, 1.1), (-1.1, -0.8)]
        case "up" | "below" | "left" | "right":  # chevrons, towards what lies beyond the axis
            right, down = {"up": (0, -1), "below": (0, 1), "left": (-1, 0), "right": (1, 0)}[shape]
            corners = [(-right - down, -down - right), (right, down), (-right + down, -down + right)]
        case "diamond":
            corners = [(0, -1.35), (1.35, 0), (0, 1.35), (-1.35, 0), (0, -1.35)]
        case "square":
            corners = [(-0.95, -0.95), (0.95, -0.95), (0.95, 0.95), (-0.95, 0.95), (-0.95, -0.95)]
        case _:
            angles = [math.pi * (index / 5 - 0.5) for index in range(11)]
            corners = [((1.9, 0.8)[index % 2] * math.cos(angle), (1.9, 0.8)[index % 2] * math.sin(angle))
                       for index, angle in enumerate(angles)]  # fmt: skip
    path, command = "", "M"
    for corner in corners:
        if corner is None:
            command = "M"
        else:
            path += f"{command}{_number(x + size * corner[0])} {_number(y + size * corner[1])}"
            command = "L"
    return path


def _number(value: float) -> str:
    """Return a coordinate with one decimal; what lies far outside stays a number that browsers can draw."""
    return f"{min(max(value, -1e5), 1e5):.1f}".removesuffix(".0")


def _class(classes: str) -> str:
    return f' class="{classes}"' if classes else ""
