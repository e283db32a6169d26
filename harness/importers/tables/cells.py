"""Numbers in the cells of tables and the values of JSON: 1e-4, 1,234.5, 3,98, 1.2k, **0.51**, tensor(0.51)."""

import re
from collections.abc import Iterable
from typing import Any

WRAPPED = re.compile(r"(?:tensor|array|np\.float\d+|Array)\(\[?([^\],)]+)[\],)].*")
LIST = re.compile(r"\[([^\[\]]*)\]")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
DECIMAL_POINT = re.compile(r"\d\.\d|^\.\d")
SUFFIXED = re.compile(r"([-+]?\d+(?:\.\d+)?)([kKMG])")
SUFFIX_FACTORS = {"k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9}


def split_words(text: str) -> frozenset[str]:
    """Return the words of a list that is written as text."""
    return frozenset(text.split())


def parse_cell(value: Any, decimal_comma: bool = False) -> float | None:
    """Return a value as a number, None if it is none. Lists of several numbers are not."""
    if isinstance(value, bool):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        if not isinstance(value, str):
            return parse_cell(value[0]) if isinstance(value, list) and len(value) == 1 else None
    text = value.strip().strip("*`'\"_ ")
    if wrapped := WRAPPED.fullmatch(text):
        text = wrapped[1].strip()
    if decimal_comma and DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    elif THOUSANDS.fullmatch(text):
        text = text.replace(",", "")
    elif suffixed := SUFFIXED.fullmatch(text):
        return float(suffixed[1]) * SUFFIX_FACTORS[suffixed[2]]
    try:
        return float(text)
    except ValueError:
        return None


def sum_of_list(value: Any) -> float | None:
    """Return the sum of several numbers in brackets, as DeepXDE prints the parts of a loss; None for anything else."""
    match = LIST.fullmatch(value.strip()) if isinstance(value, str) else None
    try:
        numbers = [float(part) for part in re.split(r"[,\s]+", match[1].strip())] if match else []
    except ValueError:
        return None
    return sum(numbers) if numbers else None


def has_decimal_commas(cells: Iterable[str], separator: str) -> bool:
    """Return whether the comma in the cells of a table is the decimal point: in none there is a point as well.

    `3,456` may be both; between semicolons it is a decimal.
    """
    commas = points = certain = 0
    for cell in cells:
        text = cell.strip()
        points += bool(DECIMAL_POINT.search(text))
        if DECIMAL_COMMA.fullmatch(text):
            commas += 1
            certain += not THOUSANDS.fullmatch(text) or text.lstrip("+-").startswith("0,")
    return commas > 0 and not points and (certain > 0 or separator == ";")
