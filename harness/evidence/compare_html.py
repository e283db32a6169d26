"""The comparison of runs as one HTML page without scripts or other files: tables, and the validation curves as SVG."""

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from harness.core.formatting import format_count
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.evidence.compare_tables import Section, Table, format_loss, to_one_line
from harness.evidence.run_comparison import Comparison

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#5b5b5b")  # Okabe and Ito (2008), readable on white
DASHES = ("", "8 4", "2 3", "10 3 2 3", "5 5", "1 4")
WIDTH, HEIGHT = 480, 300  # small, so that the text is large enough on a phone
LEFT, RIGHT, TOP, BOTTOM = 58, 28, 14, 44
MAX_POINTS = 2_000  # of a curve
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 0 auto;
  padding: 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.scroll { overflow-x: auto; } svg { width: 100%; max-width: 44rem; height: auto; } figure { margin: 1rem 0; }
ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
th { font-weight: 600; } td { overflow-wrap: break-word; max-width: 16rem; }
tbody th { position: sticky; left: 0; background: #fff; min-width: 5.5rem; max-width: 11rem;
  overflow-wrap: break-word; }
figcaption { font-size: .9rem; color: #444; }
@media print { .scroll { overflow: visible; } h2 { break-after: avoid; } tr { break-inside: avoid; } }
"""


class Curve(NamedTuple):
    """A validation curve to draw."""

    label: str
    x: np.ndarray
    y: np.ndarray


def format_as_html(comparison: Comparison, sections: Sequence[Section]) -> str:
    """Return the page."""
    names = " · ".join(f"{run.label} {to_one_line(run.name)}" for run in comparison.runs)
    parts = [f"<h1>Comparison of runs</h1><p>{html.escape(names)}</p>"]
    for section in sections:
        parts.append(f"<section><h2>{html.escape(section.title)}</h2>")
        parts += [_format_table(section.table)] if section.table else []
        if section.sentences:
            items = "".join(f"<li>{html.escape(sentence)}</li>" for sentence in section.sentences)
            parts.append(f"<ul>{items}</ul>")
        if section.title == "Losses and cost":
            parts.append(_draw_curves(comparison))
        parts.append("</section>")
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Comparison of runs</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _format_table(table: Table) -> str:
    head = "".join(f'<th scope="col">{html.escape(cell)}</th>' for cell in table.header)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(first.strip())}</th>'
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
        + "</tr>"
        for first, *cells in table.rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _draw_curves(comparison: Comparison) -> str:
    """Return the validation curves; nothing if they may not share an axis, or if no run has two evaluations."""
    units = {history.facts.steps_unit for history in comparison.histories}
    has_tokens = all(run.tokens is not None for run in comparison.runs)
    if not comparison.is_comparable or (len(units) > 1 and not has_tokens):
        return ""
    curves = [
        _make_curve(run.label, history, has_tokens)
        for run, history in zip(comparison.runs, comparison.histories, strict=True)
    ]
    curves = [curve for curve in curves if len(curve.x) > 1]
    if not curves:
        return ""
    axis = "tokens" if has_tokens else units.pop()
    ends = "; ".join(f"{curve.label} from {format_loss(curve.y[0])} to {format_loss(curve.y[-1])}" for curve in curves)
    alt = f"Validation loss by {axis}: {ends}."
    return f"<figure>{_draw_svg(curves, axis, alt)}<figcaption>{html.escape(alt)}</figcaption></figure>"


def _make_curve(label: str, history: History, has_tokens: bool) -> Curve:
    losses = drop_non_finite(history["val/loss"])
    x = history.tokens_at(losses.steps) if has_tokens else losses.steps
    if not has_tokens and history.facts.steps_unit == "epochs":
        x = losses.steps / (history.facts.steps_per_epoch or 1) - history.facts.epoch_offset
    assert x is not None  # every run has tokens
    kept = np.unique(np.linspace(0, len(losses) - 1, min(len(losses), MAX_POINTS)).astype(int))
    return Curve(label, np.asarray(x, float)[kept], losses.values[kept])


def _draw_svg(curves: Sequence[Curve], axis: str, alt: str) -> str:
    x_ticks = _choose_ticks(0.0, max(float(curve.x.max()) for curve in curves))
    losses = np.concatenate([curve.y for curve in curves])
    y_ticks = _choose_ticks(float(losses.min()), float(losses.max()))
    low, high, end = y_ticks[0], y_ticks[-1], x_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            round(LEFT + (WIDTH - LEFT - RIGHT) * x / end, 1),
            round(TOP + (HEIGHT - TOP - BOTTOM) * (high - y) / (high - low), 1),
        )

    parts = []
    for value in y_ticks:
        _, y = place(0, value)
        parts.append(f'<path d="M{LEFT} {y}H{WIDTH - RIGHT}" stroke="#ddd"/>'
                     f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end">{value:.4g}</text>')  # fmt: skip
    for value in x_ticks:
        x, _ = place(value, low)
        text = format_count(value) if end >= len(x_ticks) else f"{value:.3g}"
        parts.append(f'<text x="{x}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">{text}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{axis}</text>')
    labels: list[tuple[float, float]] = []
    for index, curve in enumerate(curves):
        color, dash = COLORS[index % len(COLORS)], DASHES[index % len(DASHES)]
        points = [place(x, y) for x, y in zip(curve.x.tolist(), curve.y.tolist(), strict=True)]
        line = " ".join(f"{x},{y}" for x, y in points)
        parts.append(
            f'<polyline points="{line}" fill="none" stroke="{color}" stroke-width="2" stroke-dasharray="{dash}"/>'
        )
        x, y = points[-1][0] + 5, points[-1][1] + 4
        while any(abs(x - left) < 14 and abs(y - top) < 13 for left, top in labels):  # curves that end at one loss
            y = round(y - 13, 1)
        labels.append((x, y))
        parts.append(f'<text x="{x}" y="{y}" fill="{color}" font-weight="700">{curve.label}</text>')
    body = "".join(parts)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(alt, quote=True)}" '
            f'font-family="system-ui, sans-serif" font-size="13" fill="#333">{body}</svg>')  # fmt: skip


def _choose_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers from at or below `low` to at or above `high`."""
    span = high - low or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / count))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor * count >= span)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * index, 12) for index in range(first, max(last, first + 1) + 1)]
