"""Numbers as logs write them: `1.2k`, `3.45nats`, `12,345`, `3,98`, `1e-05`, `nan`, and what only looks like one."""

import math
import re
import sys

from harness.importers.metric_aliases import split_words

MISSING = -sys.float_info.max
"""Stands for a token that is no number, among floats that may be NaN."""

# Quantifiers that never give back, as ++ and *+, keep the time in proportion to the length of a line.
TOKEN = re.compile(
    r"(?=[-+.\dni])(?<![\w.])(?<![A-Za-z]-)("  # the first condition is the quickest to fail
    r"\d{4}[-/]\d\d?[-/]\d\d?(?!\d)(?:[T, ]{1,2}\d\d?:\d\d(?::\d\d(?:[.,]\d++)?)?(?:Z|[+-]\d\d:?\d\d)?)?"  # a date
    r"|\d\d[-/]\d\d(?:[-/]\d{2,4})?[T, ]{1,2}\d\d:\d\d(?::\d\d(?:[.,]\d++)?)?"
    r"|\d++:\d\d(?::\d\d)?(?:[.,]\d++)?(?![\w:])"  # a time
    r"|[-+]?(?:\d++(?:,\d++)*+(?:\.\d*+)?|\.\d++)(?:[eE][-+]?\d++)?(?:%|[A-Za-z]++)?(?![\w%]|\.\d)"
    r"|(?:(?<=loss[:=])|(?<=loss[:=] ))nan[A-Za-z]++"  # broken, as in `loss: nanxxx`
    r"|[-+]?(?:nan|inf(?:inity)?)(?![\w-]|\.\w)"
    r")",
    re.IGNORECASE,
)
"""Splits a line into numbers, dates and times, and the text between them. Digits in words, such as l2, are text."""
NUMBER = re.compile(r"([-+]?(?:\d[\d,]*(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)(%|[A-Za-z]*)")
THOUSANDS = re.compile(r"[-+]?\d{1,3}(?:,\d{3})+(?:\.\d*)?")
DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")
MAGNITUDES = {"k": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12, "K": 1e3, "b": 1e9}
COUNTED = (
    "",
    "it",
    "its",
    "iter",
    "iters",
    "tok",
    "toks",
    "tokens",
    "samples",
    "steps",
    "step",
    "batch",
    "epoch",
    "ep",
)
UNITS = split_words("nats nat bits bit bpb bpc % x s ms it its iter iters tok toks tokens steps step batch epoch ep")
POSITION_UNITS = {"batch": "step", "it": "step", "its": "step", "iter": "step", "iters": "step", "epoch": "epoch"}


def parse_token(token: str, is_count: bool = False) -> float:
    """Return the value of a token, MISSING if it is a date, a time, or a number that continues as a word.

    In counts, such as steps and tokens, m is a million.
    """
    match = NUMBER.fullmatch(token)
    if match is None:
        if re.fullmatch(r"nan[a-z]+", token, re.IGNORECASE):
            return math.nan
        try:
            return float(token) if ":" not in token and "/" not in token else MISSING
        except ValueError:  # a date or a time
            return MISSING
    text, unit = match.groups()
    factor = _read_unit(unit, is_count)
    if factor is None or (is_count and unit == "%"):
        return MISSING
    if "," not in text:
        return float(text) * factor
    if THOUSANDS.fullmatch(text):
        return float(text.replace(",", "")) * factor
    return float(text.replace(",", ".")) * factor if DECIMAL_COMMA.fullmatch(text) else MISSING


def has_ambiguous_comma(token: str) -> bool:
    """Return whether the comma in a number such as 3,962 may be that of thousands or a decimal one."""
    return token.count(",") == 1 and "." not in token and THOUSANDS.fullmatch(token) is not None


def has_decimal_comma(token: str) -> bool:
    """Return whether the comma in a number such as 0,0003 can only be a decimal one."""
    return DECIMAL_COMMA.fullmatch(token) is not None and (
        THOUSANDS.fullmatch(token) is None or token.lstrip("+-").startswith("0,")
    )


def position_unit(token: str) -> str | None:
    """Return "step" or "epoch" for tokens such as 500batch and 1epoch."""
    match = NUMBER.fullmatch(token)
    return POSITION_UNITS.get(match[2][1:] if match[2][:1] in ("k", "M") else match[2]) if match else None


def is_whole(value: float) -> bool:
    """Return whether a value is a finite whole number that is not negative."""
    return math.isfinite(value) and value >= 0 and value == round(value)


def _read_unit(unit: str, is_count: bool) -> float | None:
    """Return the factor of a unit, None if it is unknown."""
    if unit in UNITS or not unit:
        return 1.0
    if unit[0] in MAGNITUDES and unit[1:] in COUNTED:
        return MAGNITUDES[unit[0]]
    return 1e6 if is_count and unit == "m" else None
