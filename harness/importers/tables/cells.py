"""Numbers in the cells of tables and the values of JSON: 1e-4, 1,234.5, 3,98, 1.2k, **0.51**, tensor(0.51)."""

import re
from collections.abc import Iterable
from typing import Any

from harness.importers.numbers import DECIMAL_COMMA, MAGNITUDES, MISSING, NUMBER, THOUSANDS, parse_token

WRAPPED = re.compile(r"(?:tensor|array|np\.float\d+|Array)\(\[?([^\],)]+)[\],)].*")
LIST = re.compile(r"\[([^\[\]]*)\]")
DECIMAL_POINT = re.compile(r"\d\.\d|^\.\d")


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
    elif "," in text and not THOUSANDS.fullmatch(text):
        return None
    unit = (NUMBER.fullmatch(text) or ("", "", ""))[2]
    number = parse_token(text) if not unit or unit in MAGNITUDES else MISSING
    return None if number == MISSING else number


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
