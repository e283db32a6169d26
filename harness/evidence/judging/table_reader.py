"""Rows of a table of runs: TSV, CSV, JSON lines, a JSON list, or a Markdown table."""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.core.input_files import open_input
from harness.importers.sources.decoding import decode_text
from harness.importers.tables.cells import has_decimal_commas, parse_cell

MAX_BYTES = 100_000_000
RULE = re.compile(r"[\s|+:=\-_\u2500-\u257f]*")
Row = tuple[int, dict[str, str]]
"""Number of a row, from 1, and its cells by column."""


def read_table_rows(path: Path) -> tuple[list[str], list[Row], list[str]]:
    """Return the columns, the rows and notes on what was read in another way than it stands.

    Raises:
        ConfigError: If the file cannot be read, has no header or no rows.
    """
    try:
        with open_input(path, MAX_BYTES, "cut it into smaller ones", allow_pipe=True) as file:
            text = decode_text(file.read())
    except ValueError as error:
        raise ConfigError(str(error)) from error
    columns, rows, notes = _read_json(text, path) if text.lstrip()[:1] in ("{", "[") else _read_cells(text, path)
    if not rows:
        raise ConfigError(f"{path}: there are no rows below the header; log a run first")
    return columns, [(number, row) for number, row in enumerate(rows, 1)], notes


def _read_cells(text: str, path: Path) -> tuple[list[str], list[dict[str, str]], list[str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    separator = _find_separator(lines)
    if separator is None:
        raise ConfigError(
            f"{path}: not a table; the first line must name columns between tabs, commas or pipes, such as "
            "commit, val_bpb and status"
        )
    if separator == "|":
        lines = [line for line in lines if "|" in line]
    records = list(_split_lines(lines, separator))
    header, *cells = [record for record in records if not RULE.fullmatch("".join(record))]
    names = [re.sub(r"^#\s*(?=\w)", "", name.strip()).strip("*`") for name in header]
    if len(set(names)) < len(names) or not all(names) or any(_is_number(name) for name in names):
        raise ConfigError(
            f"{path}: the first line must name each column once, but is {' | '.join(header)!r}; add a header"
        )
    surplus = [number for number, row in enumerate(cells, 1) if len(row) > len(names)]
    notes = [f"more cells than columns in {len(surplus)} rows, the first is {surplus[0]}"] if surplus else []
    decimal_comma = separator != "," and has_decimal_commas((cell for row in cells for cell in row), separator)
    rows = []
    for row in cells:
        row = [*row[: len(names) - 1], separator.join(row[len(names) - 1 :])]  # agents do not quote a description
        if decimal_comma:
            row = [cell if (value := parse_cell(cell, True)) is None else repr(value) for cell in row]
        rows.append({name: cell.strip() for name, cell in zip(names, row, strict=False)})
    return names, rows, notes


def _find_separator(lines: Sequence[str]) -> str | None:
    header = next((line for line in lines if not RULE.fullmatch(line)), "")
    if "\t" in header:
        return "\t"
    if not ("|" in header or "," in header or ";" in header):
        header = next((line for line in lines if line.lstrip().startswith("|")), "")  # below a title
    return max("|,;", key=header.count) if any(map(header.count, "|,;")) else None


def _split_lines(lines: Sequence[str], separator: str) -> Iterable[list[str]]:
    if separator == "\t":
        return (line.split("\t") for line in lines)
    if separator == "|":
        return ([cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")]
                for line in lines)  # fmt: skip
    quotes_after_space = any(f'{separator} "' in line for line in lines)
    return csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=quotes_after_space)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_json(text: str, path: Path) -> tuple[list[str], list[dict[str, str]], list[str]]:
    rows = []
    for number, entry in enumerate(_iterate_entries(text, path), 1):
        if not isinstance(entry, Mapping):
            raise ConfigError(f"{path}: entry {number} is not an object; write one object for each run")
        rows.append(_flatten(entry))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return columns, rows, []


def _iterate_entries(text: str, path: Path) -> Iterable[Any]:
    try:
        document = json.loads(text)
    except ValueError:
        entries = []
        for number, line in enumerate(text.splitlines(), 1):
            if line.strip():
                try:
                    entries.append(json.loads(line))
                except ValueError as error:
                    raise ConfigError(f"{path}: line {number} is not JSON ({error}); repair or delete it") from error
        return entries
    if isinstance(document, Mapping):
        lists = [value for value in document.values() if isinstance(value, list) and value]
        return lists[0] if len(lists) == 1 else [document]
    return document


def _flatten(entry: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return the fields of an object as text, those of objects in it by dotted names."""
    cells: dict[str, str] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            cells |= _flatten(value, f"{prefix}{name}.")
        else:
            cells[f"{prefix}{name}"] = "" if value is None else value if isinstance(value, str) else json.dumps(value)
    return cells
