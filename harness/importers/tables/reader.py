"""Tables: CSV, TSV, semicolons, pipes and Markdown, columns by spaces, with anything around them."""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History
from harness.importers.metric_aliases import canonical_name
from harness.importers.tables.cells import has_decimal_commas, parse_cell
from harness.importers.tables.layout import QUOTING_SEPARATORS, TableLayout, is_rule, read_header, split_cells
from harness.importers.tables.records import Located, read_records

KINDS = {",": "CSV", "\t": "TSV", ";": "CSV", "|": "table", " ": "table"}
SAMPLE_LINES = 200
DIGITS = frozenset("0123456789")
STARTS_NUMBER = re.compile(r"[-+.,\d]|nan|inf", re.IGNORECASE)


def read_table(lines: Iterable[str], path: Path, layout: TableLayout) -> list[History]:
    """Read the table in the lines of the file `path`. Lines that are no rows of it are left out.

    A header that is repeated may begin another run; one with other names counts for the rows below it.

    Raises:
        ValueError: If the table has no losses, is one of whole runs, or has an invalid cell.
    """
    iterator = iter(lines)
    for _ in range(layout.header_at + 1):
        next(iterator, None)
    head = list(islice(iterator, SAMPLE_LINES))
    cells = (cell for line in head for cell in split_cells(line, layout.separator, len(layout.names)))
    decimal_comma = layout.separator != "," and has_decimal_commas(cells, layout.separator)
    rows = _iterate_rows(_chain(head, iterator), path, layout)
    located = _iterate_records(rows, layout, decimal_comma)
    return read_records(located, path, KINDS[layout.separator])


def _chain(head: Iterable[str], rest: Iterable[str]) -> Iterator[str]:
    yield from head
    yield from rest


def _iterate_rows(lines: Iterable[str], path: Path, layout: TableLayout) -> Iterator[tuple[int, list[str], str]]:
    """Yield (line number, cells, line)."""
    separator, n_cells = layout.separator, len(layout.names)
    if separator not in QUOTING_SEPARATORS:
        for number, line in enumerate(lines, layout.header_at + 2):
            if line.strip() and not is_rule(line):
                yield number, split_cells(line, separator, n_cells), line
        return
    reader = csv.reader((f"{line}\n" for line in lines), delimiter=separator, skipinitialspace=True)
    before = layout.header_at + 1
    try:
        for row in reader:
            if row:
                yield before + reader.line_num, row, ""
    except csv.Error as error:
        place = f"{path}, line {before + reader.line_num}"
        raise ValueError(f"{place}: {error}; delete that column or row") from error


def _iterate_records(
    rows: Iterable[tuple[int, list[str], str]], layout: TableLayout, decimal_comma: bool
) -> Iterator[Located]:
    names: Sequence[str] = [name.strip() for name in layout.names]
    is_strict = layout.separator not in QUOTING_SEPARATORS
    is_inside, starts_log = True, False
    for number, row, _ in rows:
        if not row:
            continue
        if row[0][:1] not in DIGITS and not any(STARTS_NUMBER.match(cell.strip().lstrip("*[")) for cell in row):
            header = _match_header(row, names, layout.separator)
            if header is not None:
                names, is_inside, starts_log = header, True, True
            elif is_strict and len(row) > 1:
                is_inside = False
            continue
        if is_strict and (not is_inside or len(row) != len(names)):
            continue
        if layout.separator == " " and not _has_position(row, names):
            continue
        cells: list[Any] = row
        if decimal_comma:
            cells = [cell if (value := parse_cell(cell, decimal_comma)) is None else value for cell in row]
        yield f"line {number}", dict(zip(names, cells, strict=False)), starts_log
        starts_log = False


def _has_position(row: Sequence[str], names: Sequence[str]) -> bool:
    """Return whether the cells of steps and epochs begin as numbers do, if there are any."""
    return all(
        STARTS_NUMBER.match(cell)
        for name, cell in zip(names, row, strict=True)
        if canonical_name(name) in ("step", "epoch")
    )


def _match_header(row: Sequence[str], names: Sequence[str], separator: str) -> Sequence[str] | None:
    """Return the names if a row of words is the header again, or another one of losses."""
    cells = [cell.strip().lstrip("#").strip() for cell in row]
    if cells == [name.lstrip("#").strip() for name in names]:
        return names
    if len(cells) < 2:
        return None
    stand_in = separator.join(["1"] * len(cells)) if separator != " " else "  ".join(["1"] * len(cells))
    joined = separator.join(cells) if separator != " " else "  ".join(cells)
    return read_header(joined, separator, [stand_in])
