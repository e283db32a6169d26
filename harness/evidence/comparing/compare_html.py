"""The comparison of runs as one HTML page without scripts or other files: tables, and the validation curves as SVG."""

from collections.abc import Sequence

from harness.evidence.charts import draw_chart
from harness.evidence.charts.svg_chart import escape
from harness.evidence.comparing.compare_tables import Section, format_loss, to_one_line
from harness.evidence.comparing.loss_curves import make_loss_curves
from harness.evidence.comparing.run_comparison import Comparison
from harness.evidence.html_page import escape_with_breaks, render_figure, render_page, render_table


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
    labels = [run.label for run in comparison.runs]
    curves = (
        make_loss_curves(list(zip(labels, comparison.histories, strict=True))) if comparison.is_comparable else None
    )
    if curves is None:
        return ""
    ends = "; ".join(f"{one.label} from {format_loss(one.y[0])} to {format_loss(one.y[-1])}" for one in curves.lines)
    alt = f"Validation loss by {curves.x_label}: {ends}."
    return render_figure(draw_chart(curves).render(alt), escape(alt))
