"""Tables in a growing output: a header and the rows below it, between any other lines."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.importers.metric_aliases import split_words
from harness.importers.named_values.settings import SETTING_HEADERS
from harness.importers.tables.cells import parse_cell
from harness.importers.tables.layout import LONG_KEYS, LONG_VALUES, candidate_names, is_rule, split_cells

MAX_LINES_BETWEEN = 3
"""Limit of the lines between a header and its first row."""
MAX_CELL_CHARS = 60
MISSING_WORDS = frozenset(("", "-", "--", "n/a", "na", "none", "null", "no log", "..."))
MAX_HEADER_CHARS = 4_000
STANDALONE_NUMBER = re.compile(r"(?<![^\s,;|:=(])[-+]?(?:\d|\.\d|nan\b|inf\b)", re.IGNORECASE)
NOT_A_HEADER = re.compile(r"=|[:(] ?[-+.]?\d|(?:\S+\s+){6}|^\W*$")
TIME = re.compile(r"[\d:.,]+")
PART = re.compile(r"\s*(\d+)\s*/\s*(\d+)\s*")  # 3/10
VALUE_NAMES = split_words("value values score result results")
SEPARATORS = "\t;,|"


class Header(NamedTuple):
    """Names of the columns and what separates them."""

    separator: str
    names: tuple[str, ...]


class TableTracker:
    """Follows the lines of an output and reads those that are rows of a table."""

    def __init__(self) -> None:
        self._header: Header | None = None
        self._candidates: list[Header] = []
        self._age = 0

    @property
    def has_settings(self) -> bool:
        """Return whether the table is one of settings, with their names in the first column."""
        first = next(filter(None, self._header.names), "") if self._header else ""
        return bool(set(first.lower().split()) & SETTING_HEADERS)

    def read_row(self, line: str) -> dict[str, float] | None:
        """Return the values of a row by the names of its columns; None for any other line."""
        if self._header is not None:
            row = _read_cells(line, self._header)
            if row is not None:
                return row
        if self._candidates:
            for header in self._candidates:
                row = _read_cells(line, header)
                if row is not None:
                    self._header, self._candidates = header, []
                    return row
            self._age += not is_rule(line)
            if self._age > MAX_LINES_BETWEEN:
                self._candidates = []
        if may_be_header(line):
            found = _read_headers(line)
            if found:
                self._candidates, self._age = found, 0
        return None


def may_be_header(line: str) -> bool:
    """Return whether a line has several cells and no numbers but those in names, as in `mAP50-95`."""
    has_cells = any(separator in line for separator in SEPARATORS) or len(line.split()) > 1
    return has_cells and len(line) < MAX_HEADER_CHARS and not STANDALONE_NUMBER.search(line) and not is_rule(line)


def _read_headers(line: str) -> list[Header]:
    """Return what the header may be, one for each separator that splits it into names."""
    found = []
    for separator in (*SEPARATORS, " "):
        if separator != " " and separator not in line:
            continue
        for names in candidate_names(line, separator):
            names = [name.strip().strip("#*`\"'").strip() for name in names]
            filled = [name for name in names if name]
            is_named = len(filled) > 1 and all(len(name) <= MAX_CELL_CHARS for name in names)
            if is_named and not any(map(NOT_A_HEADER.search, filled)) and len(set(filled)) == len(filled):
                found.append(Header(separator, tuple(names)))
    return found


def _read_cells(line: str, header: Header) -> dict[str, float] | None:
    names, separator = header.names, header.separator
    if separator != " " and separator not in line and not (separator == "|" and "\u2502" in line):
        return None
    cells = split_cells(line, separator, len(names))
    if separator == " " and len(cells) != len(names):
        cells = split_cells(line, separator)
        has_index = parse_cell(cells[0]) is None or (cells[0].isdigit() and names[-1] != "support")
        names = ("", *names) if has_index else names  # rows have names or numbers, their column has no name
    if len(cells) != len(names):
        return None
    values = [parse_cell(cell) if cell else None for cell in cells]
    if not any(value is not None for value in values):
        return None
    texts = [cell for cell, value in zip(cells, values, strict=True) if value is None and not _is_empty(cell)]
    if any("=" in text or ": " in text or len(text) > MAX_CELL_CHARS for text in texts):
        return None
    if separator == " ":
        is_wide = len(split_cells(line, separator)) == len(names)
        if len(texts) > sum(map(bool, map(TIME.fullmatch, texts))) + (values[0] is None and is_wide):
            return None
    return _name_cells(names, cells, values)


def _name_cells(names: Sequence[str], cells: Sequence[str], values: Sequence[float | None]) -> dict[str, float]:
    """Return the values of a row, named by the columns, by the text at its start, or both."""
    lower = [name.lower().replace(" ", "_") for name in names]
    key_at = next((at for at, name in enumerate(lower) if name in LONG_KEYS), None)
    value_at = next((at for at, name in enumerate(lower) if name in LONG_VALUES), None)
    if key_at is not None and value_at is not None and values[value_at] is not None:
        extra = {name: value for name, value in zip(names, values, strict=True) if value is not None and name}
        extra.pop(names[value_at], None)
        owner = cells[0] if key_at and values[0] is None else ""
        return extra | {"/".join(filter(None, (owner, cells[key_at]))): values[value_at] or 0.0}
    is_named = values[0] is None and any(map(str.isalpha, cells[0])) and not _is_empty(cells[0]) and ":" not in cells[0]
    row = cells[0].strip("*` ") if is_named else ""
    measured = {name: value for name, value in zip(names, values, strict=True) if value is not None and name}
    if part := PART.fullmatch(cells[0]):
        measured |= {names[0]: float(part[1]), f"total_{names[0].lower().removesuffix('s')}s": float(part[2])}
    if row and len(names) == 2 and lower[1] in VALUE_NAMES:
        return {row: next(iter(measured.values()))}
    return {f"{row}/{name}" if row else name: value for name, value in measured.items()}


def _is_empty(cell: str) -> bool:
    return cell.strip().lower() in MISSING_WORDS
