"""A report as markdown, for GitHub."""

import re
from collections.abc import Iterator

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
    ReportTable,
    Span,
    Text,
    plain_text,
)
from harness.evidence.report.numbers import Number

FIGURES_FOLDER = "figures"


def format_report_markdown(report: Report) -> str:
    """Return the document; its figures are the files FIGURES_FOLDER/NAME.svg beside it."""
    lines = [f"# {escape_markdown(report.title)}"]
    for section in report.sections:
        lines += ["", f"## {escape_markdown(section.title)}"]
        for block in section.blocks:
            lines += ["", *_format_block(block)]
    return "\n".join(lines) + "\n"


def _format_block(block: Block) -> Iterator[str]:
    match block:
        case Paragraph():
            text = _protect_start(format_markdown_text(block.text))
            yield f"**{text}**" if block.is_verdict and "**" not in text else text
        case BulletList():
            yield from (f"- {_protect_start(format_markdown_text(item))}" for item in block.items)
        case CommandLines():
            fence = "```"
            while any(fence in line for line in block.lines):
                fence += "`"
            yield from (f"{fence}sh", *("\n".join(line.splitlines()) for line in block.lines), fence)
        case ReportTable():
            yield _format_row(block.header)
            yield f"|{'---|' * len(block.header)}"
            yield from map(_format_row, block.rows)
            if block.caption:
                yield from ("", format_markdown_text(block.caption))
        case ReportFigure():
            yield f"![{escape_markdown(plain_text(block.alt))}]({FIGURES_FOLDER}/{block.name}.svg)"
            yield from ("", format_markdown_text(block.caption))


def _protect_start(line: str) -> str:
    """Return a line that begins no list, and underlines no heading."""
    start = re.match(r"\d*(?=[-+.)=](\s|$|[-=]+\s*$))", line)
    return f"{line[: start.end()]}\\{line[start.end() :]}" if start else line


def _format_row(cells: tuple[Text, ...]) -> str:
    return f"| {' | '.join(format_markdown_text(cell, in_table=True) for cell in cells)} |"


def format_markdown_text(text: Text, *, in_table: bool = False) -> str:
    """Return a text in one line."""
    return "".join(_format_span(span, in_table) for span in text)


def _format_span(span: Span, in_table: bool) -> str:
    match span:
        case str():
            return escape_markdown(span)
        case Number():
            return escape_markdown(span.text)
        case Bare():
            return escape_markdown(span.number.bare_text)
        case Code():
            return _format_code(span.text, in_table)
        case Quote():
            return f"“{escape_markdown(span.text)}”"
        case Name() | Claim():
            return escape_markdown(span.text)


def _format_code(text: str, in_table: bool) -> str:
    """Return a text between backticks; in a table, a bar would end its cell even there."""
    line = " ".join(text.split()) or " "
    ticks = "`"
    while ticks in line:
        ticks += "`"
    inner = f" {line} " if "`" in line else line
    return f"{ticks}{inner.replace('|', chr(92) + '|') if in_table else inner}{ticks}"


def escape_markdown(text: str) -> str:
    """Return a text in one line, of which nothing means anything in markdown, HTML included."""
    line = " ".join(text.split(" "))
    line = "".join(" " if char in "\r\n\t" else char for char in line)
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|~&$@" else char for char in line)
