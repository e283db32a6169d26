"""Prefixes that all lines of a log have: marks of quotation, and what launchers and containers put before a line."""

import re
from collections.abc import Iterable, Iterator, Sequence

PROBE_LINES, MIN_LINES = 200, 3
DIGITS = re.compile(r"\d+")
PREFIX_END = re.compile(r"[:>\])-] |\bstd(?:out|err) [FP] ")
"""The end of `> `, `[rank0]: `, `2031-06-07 10:00:00 - INFO - ` and in the logs of Kubernetes."""


def find_prefix(lines: Sequence[str]) -> re.Pattern[str] | None:
    """Return the pattern of what all of the first lines begin with, with any numbers in it; None if there is none."""
    shapes = [f"{DIGITS.sub('0', line.rstrip())} " for line in lines if line.strip()][:PROBE_LINES]
    if len(shapes) < MIN_LINES:
        return None
    first, last = min(shapes), max(shapes)
    n_common = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    ends = list(PREFIX_END.finditer(first, 0, n_common))
    if not ends:
        return None
    prefix = first[: ends[-1].end()].rstrip()
    return re.compile(r"\A" + r"\d+".join(map(re.escape, prefix.split("0"))) + " ?")


def cut_prefixes(lines: Iterable[str], prefix: re.Pattern[str] | None) -> Iterator[str]:
    """Yield the lines without the prefix."""
    for line in lines:
        yield prefix.sub("", line) if prefix else line
