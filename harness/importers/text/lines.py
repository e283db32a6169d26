"""Collection of the lines of a log by their templates, in one pass and in little memory."""

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.importers.metric_aliases import SUMMARY_KEY
from harness.importers.numbers import TOKEN
from harness.importers.rows import check_row_count
from harness.importers.text.templates import Template, add_values, read_template

MAX_CACHED_FORMS = 50_000
MAX_TEMPLATES = 20_000
MAX_DICT_LINES = 60  # of a dictionary or JSON object that was printed on several lines
RANK_PREFIX = re.compile(
    r"^\s*(?:\[(?:rank|default|gpu|cuda:|worker|process)[\s_:=-]?(\d+)\]|\[\d+,(\d+)\]<\w+>)\s*:?", re.IGNORECASE
)
"""Prefixes that torchrun and mpirun put before the lines of each process."""
QUOTE = re.compile(r"^(?:> ?)+(?![>-])")
SPACES = re.compile(r"\s{2,}")
ALIGNMENT = re.compile(r"(?<=[\[(/:=|])\s+|\s+(?=[/\])|])")  # depends on the number of digits
BAR_PARTS = re.compile(r"[█▏▎▍▌▋▊▉#=>━╸╺─.\-]{2,}|[█▏▎▍▌▋▊▉]|(?<=\|)[█▏▎▍▌▋▊▉# ]*(?=\|)")
DIGITS = re.compile(r"\d+")


@dataclass
class LogLines:
    """The lines that may matter, as (template, line number, rank) in the order of the log."""

    templates: list[Template] = field(default_factory=list)
    order: array = field(default_factory=lambda: array("I"))
    numbers: array = field(default_factory=lambda: array("I"))
    ranks: array = field(default_factory=lambda: array("i"))
    n_lines: int = 0
    first_line: str = ""
    points: int = 0  # numbers with a decimal point, and with a comma that can only be a decimal one
    commas: int = 0


def collect_lines(lines: Iterable[str], path: Path) -> LogLines:
    """Read a log once; ValueError if more than MAX_ROWS of its lines may matter."""
    log = LogLines()
    forms: dict[str, int] = {}  # template by the text between the numbers, -1 for lines that do not matter
    by_form: dict[str, int] = {}
    for number, line in _iterate_logical_lines(lines, log):
        log.first_line = log.first_line or line.strip()[:80]
        rank = -1
        if line.startswith(("[", " [", ">")):
            line, rank = _cut_prefixes(line)
        parts = TOKEN.split(line)
        form = "\0".join(parts[::2])
        at = forms.get(form)
        if at is None:
            if len(forms) > MAX_CACHED_FORMS:
                forms.clear()
            at = forms[form] = _find_template(log, by_form, parts, line, number)
        if at < 0:
            continue
        template = log.templates[at]
        template.last_line = number
        points, commas = add_values(template, parts[1::2])
        log.points += points
        log.commas += commas
        log.order.append(at)
        log.numbers.append(number)
        log.ranks.append(rank)
        check_row_count(log.order, path)
    return log


def _iterate_logical_lines(lines: Iterable[str], log: LogLines) -> Iterator[tuple[int, str]]:
    """Yield (number, text) of lines that are not empty. A dictionary that was printed on several lines is one."""
    parts: list[str] = []
    start = 0
    for number, line in enumerate(lines, 1):
        if not line or line.isspace():
            continue
        log.n_lines += 1
        if SUMMARY_KEY in line:
            continue
        if not parts and not (line.lstrip()[:1] == "{" and "}" not in line):
            yield number, line
            continue
        start = start if parts else number
        parts.append(line)
        if "}" in line:
            yield start, " ".join(part.strip() for part in parts)
            parts = []
        elif len(parts) > MAX_DICT_LINES:
            yield from ((start, part) for part in parts)
            parts = []
    yield from ((start, part) for part in parts)


def _cut_prefixes(line: str) -> tuple[str, int]:
    """Return the line without marks of quotation and of a process, and the rank of the process, else -1."""
    line = QUOTE.sub("", line)
    match = RANK_PREFIX.match(line)
    return (line, -1) if match is None else (line[match.end() :], int(match[1] or match[2]))


def _find_template(log: LogLines, by_form: dict[str, int], parts: list[str], line: str, number: int) -> int:
    """Return the index of the line's template, -1 if the line does not matter."""
    plain = [DIGITS.sub("0", ALIGNMENT.sub("", SPACES.sub(" ", BAR_PARTS.sub("#", gap)))) for gap in parts[::2]]
    key = "\0".join(plain)
    if key in by_form:
        return by_form[key]
    if len(log.templates) >= MAX_TEMPLATES:
        return -1
    template = read_template(parts[::2], parts[1::2], line, number)
    by_form[key] = -1
    if template is not None:
        by_form[key] = len(log.templates)
        log.templates.append(template)
    elif len(by_form) > MAX_CACHED_FORMS:
        by_form.clear()
    return by_form.get(key, -1)
