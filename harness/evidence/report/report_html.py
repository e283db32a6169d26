"""A report as one HTML page: text, tables, and figures as SVG, without scripts or other files."""

from harness.evidence.charts import draw_chart
from harness.evidence.charts.svg_chart import escape
from harness.evidence.html_page import escape_with_breaks, render_figure, render_page, render_table
from harness.evidence.report.document import (
    Bare,
    Block,
    BulletList,
    Claim,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    Report,
    ReportFigure,
    ReportSection,
    ReportTable,
    Span,
    Text,
    plain_text,
)
from harness.evidence.report.numbers import Formula, Given, Number, NumberSource

MAX_WORD = 12  # characters of what may stand in the place of a number


def format_report_as_html(report: Report) -> str:
    """Return the page; each number carries its id in report.json as `data-number`."""
    links = "".join(f'<li><a href="#{escape(one.key)}">{escape(one.title)}</a></li>' for one in report.sections)
    contents = f'<nav aria-label="Contents"><ul>{links}</ul></nav>'
    sections = "\n".join(map(_format_section, report.sections))
    body = f"<header><h1>{escape(report.title)}</h1>{contents}</header>\n<main>\n{sections}\n</main>"
    return render_page(report.title, body)


def draw_report_figure(figure: ReportFigure) -> str:
    """Return the SVG of a figure, as a file of its own."""
    return draw_chart(figure.data).render(plain_text(figure.alt), is_file=True)


def _format_section(section: ReportSection) -> str:
    blocks = "\n".join(_format_block(block, section) for block in section.blocks)
    return f'<section id="{escape(section.key)}"><h2>{escape(section.title)}</h2>\n{blocks}\n</section>'


def _format_block(block: Block, section: ReportSection) -> str:
    match block:
        case Paragraph():
            return f"<p{' class=verdict' if block.is_verdict else ''}>{_format_text(block.text)}</p>"
        case BulletList():
            return f"<ul>{''.join(f'<li>{_format_text(item)}</li>' for item in block.items)}</ul>"
        case ReportTable():
            return _format_table(block, section)
        case CommandLines():
            return f"<pre><code>{escape_lines(block.lines)}</code></pre>"
        case ReportFigure():
            svg = draw_chart(block.data).render(plain_text(block.alt))
            return render_figure(svg, _format_text(block.caption), f"figure-{block.name}")


def escape_lines(lines: tuple[str, ...]) -> str:
    """Return lines for HTML."""
    return "\n".join(map(escape, lines))


def _format_table(table: ReportTable, section: ReportSection) -> str:
    columns = range(1, len(table.header))
    numbers = frozenset(index for index in columns if _is_number_column([row[index] for row in table.rows]))
    return render_table(
        [_format_text(cell) for cell in table.header],
        [[_format_text(cell) for cell in row] for row in table.rows],
        plain_text(table.caption) or section.title,
        caption=_format_text(table.caption),
        number_columns=numbers,
    )


def _is_number_column(cells: list[Text]) -> bool:
    """Return whether cells are single numbers, but for words such as "diverged" in the place of one."""
    is_number = [len(cell) == 1 and isinstance(cell[0], Number | Bare) for cell in cells]
    others = [plain_text(cell) for cell, found in zip(cells, is_number, strict=True) if not found]
    return any(is_number) and all(len(text) <= MAX_WORD for text in others)


def _format_text(text: Text) -> str:
    return "".join(map(_format_span, text))


def _format_span(span: Span) -> str:
    """Return a span as HTML. The names of strangers are set apart, so that right-to-left text stays in its place."""
    match span:
        case str():
            return escape(span)
        case Number():
            return _format_number(span, span.text)
        case Bare():
            return _format_number(span.number, span.number.bare_text)
        case Code():
            return f"<code>{escape_with_breaks(span.text)}</code>"
        case Quote():
            return f'<q title="{escape(span.source)}">{escape(span.text)}</q>'
        case Claim():
            return f'<strong title="{escape(span.criterion)}">{escape(span.text)}</strong>'
        case Name():
            return f"<bdi>{escape_with_breaks(span.text)}</bdi>"


def _format_number(number: Number, text: str) -> str:
    source = escape(_describe_source(number.source))
    return f'<span class="number" data-number="{escape(number.id)}" title="{source}">{escape(text)}</span>'


def _describe_source(source: NumberSource) -> str:
    match source:
        case Formula():
            return source.expression
        case Given():
            return source.option
    step = "" if source.step is None else f", step {source.step}"
    return f"{source.metric} of {source.place}{step}"
