"""The place and the layout of a table in a text: its header and separator, from its names and the rows below."""

import csv
import re
from collections.abc import Sequence
from typing import NamedTuple

from harness.importers.metric_aliases import SPLIT_WORDS, canonical_name, split_words
from harness.importers.tables.cells import parse_cell, sum_of_list
from harness.importers.tables.record_set import is_loss_like

SEPARATORS = ("\t", ",", ";", "|", " ")
QUOTING_SEPARATORS = "\t,;"  # of formats in which a cell may be quoted
MAX_HEADER_CELLS = 2_000
HEADER_WORDS = re.compile(
    r"loss|nll|ppl|perplexity|err|mse|cost|train|val|step|epoch|iter|batch|key|value", re.IGNORECASE
)
NOT_A_NAME = re.compile(r"^[-+\d.]+$|=|[:(] ?[-+.]?\d|\d\.\d|(?:\S+\s+){6}|^.{80}")
"""Cells of a header are names: no numbers, readings such as `loss: 3.2` or sentences."""
RULE = re.compile(r"[\s|+:=\-_\u2500-\u257f]*")
COMMENT = re.compile(r"\s*(?:#+|//|%)\s*")
BOX_CHARACTERS = str.maketrans(dict.fromkeys("\u2502\u2503\u2551\u2506\u250a\u00a6", "|"))
WIDE_GAP = re.compile(r"\s{2,}|\t")
BAR_BEHIND = re.compile(r":?\s+\d+%[|\s].*")
"""A progress bar at the end of a row, as Ultralytics prints it."""
LONG_KEYS = {"key", "metric", "metric_name", "tag", "wall_time"}
LONG_VALUES = {"value", "metric_value"}
"""Names in the header of a table with one metric per row."""
SPACY_NAMES = {"E": "epoch", "#": "step"}
FIRST_WORDS = SPLIT_WORDS | split_words("learning gradient grad global total avg average batch")
SECOND_WORDS = split_words("loss losses acc accuracy error err lr rate norm ppl perplexity time step steps f1 score")
"""Words of names such as `Train Loss` in a header with single spaces."""
ROWS_BELOW = 12
"""Number of lines below a header that are compared with it."""


class TableLayout(NamedTuple):
    """The separator of a table, the names of its columns, and the number of lines above its header."""

    separator: str
    names: tuple[str, ...]
    header_at: int


def find_table(lines: Sequence[str]) -> TableLayout | None:
    """Return the layout of the first table of losses among the lines; None if there is none.

    The first line may also be the header of a table without losses, which is then refused by name.
    """
    first = next((at for at, line in enumerate(lines) if line.strip()), None)
    for at, line in enumerate(lines):
        if not HEADER_WORDS.search(line) and at != first:
            continue
        below = [text for text in lines[at + 1 : at + 4 * ROWS_BELOW] if text.strip() and not is_rule(text)]
        for separator in SEPARATORS:
            joined = _join_header(line, below[0]) if separator == "|" and below else None
            if joined:
                names = _read_names(joined, separator, below[1:ROWS_BELOW], is_first=at == first)
                if names:
                    return TableLayout(separator, names, lines.index(below[0], at))
            names = _read_names(line, separator, below[:ROWS_BELOW], is_first=at == first)
            if names:
                return TableLayout(separator, names, at)
    return None


def _join_header(first: str, second: str) -> str | None:
    """Return the header of two lines between pipes as one, as that of MATLAB; None if the second one is a row."""
    cells, more = split_cells(first, "|"), split_cells(second, "|")
    if len(cells) < 2 or len(cells) != len(more) or not any(more) or re.search(r"\d|[-+*]{2}", second):
        return None
    return " | ".join(f"{name} {unit}".strip() for name, unit in zip(cells, more, strict=True))


def is_rule(line: str) -> bool:
    """Return whether a line only draws a rule, as below the header of a table."""
    return RULE.fullmatch(line) is not None


def split_cells(line: str, separator: str, n_cells: int | None = None) -> list[str]:
    """Return the cells of a line; with columns by spaces `n_cells` decides whether one space is enough."""
    if separator == "|":
        line = line.translate(BOX_CHARACTERS).strip()
        return [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
    if separator == " ":
        line = BAR_BEHIND.sub("", line)
        wide = [cell.strip() for cell in WIDE_GAP.split(line.strip())]
        if n_cells is None or len(wide) == n_cells:
            return wide
        return line.split()
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator), [])]
    except csv.Error:
        return []


def is_row(line: str, layout: TableLayout) -> bool:
    """Return whether a line is a row of the table, with numbers."""
    cells = split_cells(line, layout.separator, len(layout.names))
    return len(cells) == len(layout.names) and _fits(line, layout.names, layout.separator, True)


def read_header(line: str, separator: str, rows: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names in a line that is the header of a table of losses with these rows; None if it is not."""
    return _read_names(line, separator, rows, is_first=False)


def _read_names(line: str, separator: str, below: Sequence[str], is_first: bool) -> tuple[str, ...] | None:
    for text in (line, COMMENT.sub("", line, count=1)) if COMMENT.match(line) else (line,):
        for names in candidate_names(text, separator):
            if not 1 < len(names) <= MAX_HEADER_CELLS or any(map(NOT_A_NAME.search, names)):
                continue
            has_loss = any(map(is_loss_like, names)) or _is_long(names)
            if not has_loss and not (is_first and separator in QUOTING_SEPARATORS):
                continue
            fitting = [row for row in below[:4] if _fits(row, names, separator, has_loss)]
            if fitting and (has_loss or len(fitting) >= len(below[:4]) - 1):
                return tuple(SPACY_NAMES.get(name, name) for name in names) if names[:2] == ["E", "#"] else tuple(names)
    return None


def candidate_names(line: str, separator: str) -> list[list[str]]:
    """Return what the names in a header may be; between single spaces, words may belong together."""
    cells = split_cells(line, separator)
    if separator != " " or "  " in line.strip():
        return [cells]
    words = line.split()
    return [words, _join_names(words)]


def _join_names(words: Sequence[str]) -> list[str]:
    """Join words of a header with single spaces that are a name together, such as `Train Loss`."""
    names: list[str] = []
    for word in words:
        if names and word.lower() in SECOND_WORDS and names[-1].lower() in FIRST_WORDS:
            names[-1] += f" {word}"
        else:
            names.append(word)
    return names


def _is_long(names: Sequence[str]) -> bool:
    """Return whether these are the names of a table with one metric per row."""
    lower = {name.lower().replace(" ", "_") for name in names}
    return bool(lower & LONG_VALUES) and bool(lower & LONG_KEYS)


def _fits(line: str, names: Sequence[str], separator: str, has_loss: bool) -> bool:
    cells = split_cells(line, separator, len(names))
    is_ragged = separator in QUOTING_SEPARATORS and len(cells) > 1
    if len(cells) != len(names) and not is_ragged:
        return False
    if not has_loss:
        return 2 * sum(parse_cell(cell, decimal_comma=True) is not None for cell in cells) >= len(cells)
    wanted = [
        cell
        for name, cell in zip(names, cells, strict=False)
        if is_loss_like(name) or canonical_name(name) in ("step", "epoch") or name.lower() in LONG_VALUES | {"#"}
    ]
    return any(parse_cell(cell, decimal_comma=True) is not None or sum_of_list(cell) is not None for cell in wanted)
