"""The comparison of runs as one HTML page without scripts or other files: tables, and the validation curves as SVG."""

from collections.abc import Sequence

import numpy as np

from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite
from harness.evidence.charts import draw_chart
from harness.evidence.charts.figure_data import Curves, Line
from harness.evidence.charts.svg_chart import escape
from harness.evidence.compare_tables import Section, format_loss, to_one_line
from harness.evidence.html_page import escape_with_breaks, render_figure, render_page, render_table
from harness.evidence.run_comparison import Comparison


def format_as_html(comparison: Comparison, sections: Sequence[Section]) -> str:
    """Return the page."""
    title = "Comparison of runs"
    names = " · ".join(f"{run.label} <bdi>{escape(to_one_line(run.name))}</bdi>" for run in comparison.runs)
    parts = [f"<header><h1>{title}</h1><p>{names}</p></header>\n<main>"]
    for section in sections:
        parts.append(f"<section><h2>{escape(section.title)}</h2>")
        if section.table:
            rows = [[escape_with_breaks(cell.strip()) for cell in row] for row in section.table.rows]
            parts.append(render_table([escape(cell) for cell in section.table.header], rows, section.title))
        if section.sentences:
            parts.append(f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in section.sentences)}</ul>")
        if section.title == "Losses and cost":
            parts.append(_draw_losses(comparison))
        parts.append("</section>")
    return render_page(title, "\n".join([*parts, "</main>"]))


def _draw_losses(comparison: Comparison) -> str:
    """Return the validation curves; nothing if they may not share an axis, or if no run has two evaluations."""
    units = {history.facts.steps_unit for history in comparison.histories}
    has_tokens = all(run.tokens is not None for run in comparison.runs)
    if not comparison.is_comparable or (len(units) > 1 and not has_tokens):
        return ""
    lines = [
        _make_line(run.label, history, has_tokens)
        for run, history in zip(comparison.runs, comparison.histories, strict=True)
    ]
    lines = [line for line in lines if len(line.x) > 1]
    if not lines:
        return ""
    axis = "tokens" if has_tokens else units.pop()
    [unit] = {run.unit for run in comparison.runs} if len({run.unit for run in comparison.runs}) == 1 else {None}
    ends = "; ".join(f"{line.label} from {format_loss(line.y[0])} to {format_loss(line.y[-1])}" for line in lines)
    alt = f"Validation loss by {axis}: {ends}."
    curves = Curves(tuple(lines), axis, f"validation loss ({unit})" if unit else "validation loss")
    return render_figure(draw_chart(curves).render(alt), escape(alt))


def _make_line(label: str, history: History, has_tokens: bool) -> Line:
    losses = drop_non_finite(history["val/loss"])
    x = history.tokens_at(losses.steps) if has_tokens else losses.steps
    if not has_tokens and history.facts.steps_unit == "epochs":
        x = losses.steps / (history.facts.steps_per_epoch or 1) - history.facts.epoch_offset
    assert x is not None  # every run has tokens
    return Line(label, "candidate", tuple(np.asarray(x, float).tolist()), tuple(losses.values.tolist()))
