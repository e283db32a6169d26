"""Prefixes that all lines of a log have: marks of quotation, and what launchers and containers put before a line."""

import re
from collections.abc import Iterable, Iterator, Sequence

PROBE_LINES, MIN_LINES = 200, 3
TIME = re.compile(
    r"(?<!\d)(?:\d{4}[-/.]\d\d[-/.]\d\d(?:[T ,_-]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z|[+-]\d\d:?\d\d)?)?|"
    r"\d\d:\d\d:\d\d(?:[.,]\d+)?|"
    r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) [ \d]\d\b|\d\d/\d\d(?:/\d\d(?:\d\d)?)?)(?!\d)"
)
"""Dates and times, which differ from line to line; not `001/050`."""
PLACEHOLDER = "\0"
PREFIX_END = re.compile(r"[:>\])-] |\bstd(?:out|err) [FP] ")
"""The end of `> `, `[rank0]: `, `2031-06-07 10:00:00 - INFO - ` and in the logs of Kubernetes."""
OF_THE_LOG = re.compile(
    r"(?<![^\W\d_])(?:epochs?|ep|steps?|iter(?:ation)?s?|it|batch|loss|train(?:ing)?|val|valid(?:ation)?|"
    r"eval(?:uation)?|test|lr|stage|phase|fold|run|seed|trial)(?![^\W\d_])",
    re.IGNORECASE,
)
"""Words that say something of a line, also if they stand in all of the first ones."""


def find_prefix(lines: Sequence[str]) -> re.Pattern[str] | None:
    """Return the pattern of what all of the first lines begin with, at any time; None if there is nothing."""
    shapes = [f"{TIME.sub(PLACEHOLDER, line.rstrip())} " for line in lines if line.strip()][:PROBE_LINES]
    if len(shapes) < MIN_LINES:
        return None
    first, last = min(shapes), max(shapes)
    n_common = next((at for at, pair in enumerate(zip(first, last, strict=False)) if pair[0] != pair[1]), len(first))
    word = OF_THE_LOG.search(first, 0, n_common)
    ends = list(PREFIX_END.finditer(first, 0, word.start() if word else n_common))
    if not ends:
        return None
    prefix = first[: ends[-1].end()].rstrip()
    return re.compile(r"\A" + f"(?:{TIME.pattern})".join(map(re.escape, prefix.split(PLACEHOLDER))) + " ?")


def cut_prefixes(lines: Iterable[str], prefix: re.Pattern[str] | None) -> Iterator[str]:
    """Yield the lines without the prefix."""
    for line in lines:
        yield prefix.sub("", line) if prefix else line
