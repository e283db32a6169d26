"""The comparison of runs as text for a terminal, as markdown and as JSON."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.core.terminal import wrap_parts, wrap_text
from harness.evidence.comparing.compare_tables import Section, Table
from harness.evidence.comparing.run_comparison import Comparison

GAP = "  "
JSON_SCHEMA = 1


def format_as_text(sections: Sequence[Section], width: int | None) -> list[str]:
    """Return lines; tables of runs that are wider than `width` are split by runs, and other ones are not."""
    lines: list[str] = []
    for section in sections:
        lines += ["", section.title] if lines else [section.title]
        if section.table:
            lines += _format_table(section.table, width)
        for sentence in section.sentences:
            lines += wrap_text(sentence, width, "  ", "  ") if width else [f"  {sentence}"]
    return lines


def _format_table(table: Table, width: int | None) -> Iterator[str]:
    for part in _split_columns(table, width):
        rows = [part.header, *part.rows]
        sizes = [max(len(row[column]) for row in rows) for column in range(len(part.header))]
        if width is not None and not table.is_of_runs and 2 + sum(sizes) + len(GAP) * (len(sizes) - 1) > width:
            for first, *cells in table.rows:  # a paragraph for each row
                named = (f"{name} {cell}" for name, cell in zip(table.header[1:], cells, strict=True))
                yield from wrap_parts(named, width, f"  {first}: ", "    ")
            return
        for row in rows:
            cells = [cell.ljust(size) for cell, size in zip(row, sizes, strict=True)]
            yield f"  {GAP.join(cells)}".rstrip()


def _split_columns(table: Table, width: int | None) -> Iterator[Table]:
    """Yield tables with as many runs each as fit; one with all if they are no runs."""
    sizes = [max(len(row[column]) for row in (table.header, *table.rows)) for column in range(len(table.header))]
    if width is None or not table.is_of_runs:
        yield table
        return
    start = 1
    while start < len(sizes):
        stop, used = start + 1, 2 + sizes[0] + len(GAP) + sizes[start]
        while stop < len(sizes) and used + len(GAP) + sizes[stop] <= width:
            used += len(GAP) + sizes[stop]
            stop += 1
        yield Table((table.header[0], *table.header[start:stop]),
                    tuple((row[0], *row[start:stop]) for row in table.rows))  # fmt: skip
        start = stop


def format_as_markdown(sections: Sequence[Section]) -> str:
    """Return a markdown document."""
    lines = ["# Comparison of runs"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        if section.table:
            header, *rows = (map(_escape_markdown, row) for row in (section.table.header, *section.table.rows))
            columns = len(section.table.header)
            lines += ["", _format_row(header), _format_row(["---"] * columns), *map(_format_row, rows)]
        if section.sentences:
            lines += ["", *(f"- {_escape_markdown(sentence)}" for sentence in section.sentences)]
    return "\n".join(lines) + "\n"


def _format_row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _escape_markdown(text: str) -> str:
    """Return text whose characters mean nothing in markdown."""
    return "".join(f"\\{char}" if char in "\\`*_{}[]<>#|~" else char for char in text.strip())


def comparison_to_json(comparison: Comparison) -> dict[str, Any]:
    """Return the schema of docs/comparing.md; numbers that are not finite are text."""
    settings = comparison.settings
    labels = [run.label for run in comparison.runs]
    document = {
        "schema": JSON_SCHEMA,
        "comparability": {
            "verdict": comparison.comparability.verdict,
            "reasons": comparison.comparability.reasons,
        },
        "runs": [asdict(run) for run in comparison.runs],
        "differences": [{**asdict(one), "direction": one.direction} for one in comparison.differences],
        "reached": [
            {"loss": one.loss, "runs": dict(zip(labels, map(asdict, one.runs), strict=True))}
            for one in comparison.reached
        ],
        "settings": [
            {"key": one.key, "kind": one.kind, "values": dict(zip(labels, one.values, strict=True))}
            for one in settings.differences
        ],
        "settings_unknown": [labels[index] for index in settings.unknown],
        "settings_left_out": settings.left_out,
        "changes": comparison.changes,
        "notes": comparison.notes,
    }
    return {key: _to_plain(value) for key, value in document.items()}


def _to_plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _to_plain(inner) for name, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
