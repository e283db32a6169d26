"""The document of a report: sections of text, tables, figures and commands, for markdown and for HTML.

Text is a tuple of spans. A plain string holds our own words and no digit: a number is a `Number`, which carries its
source, and what others wrote is a `Name`, `Code` or `Quote`. A word that judges is a `Claim` with its criterion.
`lexicon.check_document` enforces it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from harness.evidence.charts.figure_data import FigureData
from harness.evidence.report.numbers import Number


@dataclass(frozen=True)
class Name:
    """The name of a run, a study, a setting or a label such as "trial 7": text of others that is no claim."""

    text: str


@dataclass(frozen=True)
class Code:
    """A command, a key or a value of a setting, in monospace."""

    text: str


@dataclass(frozen=True)
class Quote:
    """Words that a record or a rule wrote, verbatim; `source` says where, for report.json."""

    text: str
    source: str


@dataclass(frozen=True)
class Bare:
    """A number without its unit, for a table whose header has it."""

    number: Number


@dataclass(frozen=True)
class Claim:
    """A word that judges, such as "better", with the condition over numbers of the report under which it is true."""

    text: str
    criterion: str


Span = str | Number | Bare | Name | Code | Quote | Claim
Text = tuple[Span, ...]


@dataclass(frozen=True)
class Paragraph:
    """A paragraph; `is_verdict` marks the one that a reader should see first."""

    text: Text
    is_verdict: bool = False


@dataclass(frozen=True)
class BulletList:
    items: tuple[Text, ...]


@dataclass(frozen=True)
class ReportTable:
    """A table whose first column names its rows."""

    header: tuple[Text, ...]
    rows: tuple[tuple[Text, ...], ...]
    caption: Text = ()


@dataclass(frozen=True)
class CommandLines:
    """Commands for a shell, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class ReportFigure:
    """A figure; `name` is that of its file, and `alt` says in words what it shows."""

    name: str
    data: FigureData
    alt: Text
    caption: Text
    sources: tuple[str, ...] = ()


Block = Paragraph | BulletList | ReportTable | ReportFigure | CommandLines


@dataclass(frozen=True)
class ReportSection:
    """A titled part; `key` is its anchor."""

    key: str
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True)
class Report:
    """A report: `numbers` holds all of its numbers by id, also those that only formulas use.

    `inputs` is what the report was asked for, from which it can be made again.
    """

    title: str
    sections: tuple[ReportSection, ...]
    numbers: dict[str, Number]
    inputs: dict[str, Any] = field(default_factory=dict)


def span_text(span: Span) -> str:
    """Return a span as plain text."""
    match span:
        case str():
            return span
        case Number():
            return span.text
        case Bare():
            return span.number.bare_text
        case Quote():
            return f"“{span.text}”"
    return span.text


def plain_text(text: Text) -> str:
    """Return text without markup, such as for an alt text."""
    return "".join(map(span_text, text))


def iterate_texts(report: Report) -> Iterator[Text]:
    """Yield every text of the report, in the order in which it is read."""
    for section in report.sections:
        for block in section.blocks:
            match block:
                case Paragraph():
                    yield block.text
                case BulletList():
                    yield from block.items
                case ReportTable():
                    yield from block.header
                    yield from (cell for row in block.rows for cell in row)
                    yield block.caption
                case ReportFigure():
                    yield block.alt
                    yield block.caption


def iterate_numbers(text: Text) -> Iterator[Number]:
    """Yield the numbers in a text."""
    for span in text:
        if isinstance(span, Number | Bare):
            yield span.number if isinstance(span, Bare) else span


def iterate_figures(report: Report) -> Iterator[ReportFigure]:
    """Yield the figures of the report."""
    for section in report.sections:
        yield from (block for block in section.blocks if isinstance(block, ReportFigure))
