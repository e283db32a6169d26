"""Compute a report again from its sources, and list what differs in its files."""

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.core.files import read_small_file
from harness.evidence.report.document import Report
from harness.evidence.report.markdown_page import FIGURES_FOLDER
from harness.evidence.report.report_files import (
    FILES,
    PAGE,
    RENDERER,
    REPORT_JSON,
    SCHEMA,
    compute_renderer_digest,
    digest_text,
    render_report,
)

TOLERANCE = 1e-9
"""Relative difference that the order of additions on another machine may cause."""
MAX_LISTED = 5  # lines of a file


def read_report_inputs(folder: Path) -> dict[str, Any]:
    """Return what a report was asked for.

    Raises:
        ConfigError: If the folder has no report that can be read.
    """
    written = _read_report_json(folder)
    inputs = written.get("inputs")
    if written.get("schema") != SCHEMA or not isinstance(inputs, dict):
        raise ConfigError(f"{folder / REPORT_JSON}: not a report of this version; write it again")
    return inputs


def _read_report_json(folder: Path) -> dict[str, Any]:
    path = folder / REPORT_JSON
    try:
        written = json.loads(read_small_file(path))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}; name the folder of a report") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if not isinstance(written, dict):
        raise ConfigError(f"{path}: not a JSON object; write the report again")
    return written


def find_report_differences(folder: Path, make_report: Callable[[dict[str, Any]], Report]) -> list[str]:
    """Return a line for each difference between the files of a report and what its sources give now.

    Raises:
        ConfigError: If the report or one of its sources cannot be read.
    """
    report = make_report(read_report_inputs(folder))
    expected, written = render_report(report), _read_report_json(folder)
    found = list(_compare_json(written, json.loads(expected[REPORT_JSON])))
    is_same_renderer = written.get(RENDERER) == compute_renderer_digest()
    for name, content in expected.items():
        if name != REPORT_JSON:
            found += (
                _compare_file(folder, name, content) if is_same_renderer else _compare_digest(folder, name, written)
            )
    if not is_same_renderer:
        found += _compare_numbers(folder, report)
    known = {*expected, FIGURES_FOLDER}
    extra = [path for path in folder.rglob("*") if path.relative_to(folder).as_posix() not in known]
    return [*found, *(f"{path.relative_to(folder)}: not a file of the report" for path in extra)]


def _compare_digest(folder: Path, name: str, written: Mapping[str, Any]) -> Iterator[str]:
    """Yield whether a file is not as another version of the program wrote it, whose words are not compared."""
    files = written.get(FILES)
    try:
        digest = digest_text(read_small_file(folder / name).decode())
    except (OSError, ValueError) as error:
        yield f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        return
    if not isinstance(files, dict) or files.get(name) != digest:
        yield f"{name}: changed since another version of this program wrote it"


def _compare_numbers(folder: Path, report: Report) -> Iterator[str]:
    """Yield the numbers of a page that are not written as the sources give them."""
    try:
        page = read_small_file(folder / PAGE).decode()
    except (OSError, ValueError):
        return  # said by _compare_digest
    for id, shown in _list_page_numbers(page):
        number = report.numbers.get(id)
        if number is None or shown not in (number.text, number.bare_text):
            wanted = "have no such number" if number is None else f"give {number.text}"
            yield f"{PAGE}: {id}: shows {shown}, the sources {wanted}"


def _compare_json(written: Mapping[str, Any], expected: Mapping[str, Any]) -> Iterator[str]:
    numbers = written.get("numbers")
    for id in dict.fromkeys([*(numbers if isinstance(numbers, dict) else ()), *expected["numbers"]]):
        left = numbers.get(id) if isinstance(numbers, dict) else None
        right = expected["numbers"].get(id)
        if not isinstance(left, dict) or right is None:
            yield f"{REPORT_JSON}: {id}: {'not in the sources' if right is None else 'missing'}"
            continue
        for key in dict.fromkeys([*left, *right]):
            if not _is_same(left.get(key), right.get(key)):
                yield f"{REPORT_JSON}: {id}: {key} is {left.get(key)!r}, the sources give {right.get(key)!r}"
    for key in dict.fromkeys([*written, *expected]):
        if key not in ("numbers", "inputs", RENDERER, FILES) and not _is_same(written.get(key), expected.get(key)):
            yield f"{REPORT_JSON}: {key} differs from what the sources give"


def _is_same(left: Any, right: Any) -> bool:
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(_is_same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_is_same, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return math.isclose(left, right, rel_tol=TOLERANCE, abs_tol=0.0)
    return bool(left == right)


def _compare_file(folder: Path, name: str, expected: str) -> Iterator[str]:
    path = folder / name
    try:
        written = read_small_file(path).decode()
    except (OSError, ValueError) as error:
        yield f"{name}: cannot be read: {getattr(error, 'strerror', None) or error}"
        return
    if written.splitlines() == expected.splitlines():
        return
    listed = list(_compare_page(name, written, expected)) if name == PAGE else []
    if not listed:
        listed = list(_compare_lines(name, written.splitlines(), expected.splitlines()))
    yield from listed


class _NumberParser(HTMLParser):
    """Collect the numbers of a page in their order: id and text."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[list[str]] = []
        self._tag = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        id = dict(attrs).get("data-number")
        if id is not None:
            self.numbers.append([id, ""])
            self._tag = tag

    def handle_endtag(self, tag: str) -> None:
        self._tag = "" if tag == self._tag else self._tag

    def handle_data(self, data: str) -> None:
        if self._tag:
            self.numbers[-1][1] += data


def _list_page_numbers(page: str) -> list[list[str]]:
    parser = _NumberParser()
    parser.feed(page)
    return parser.numbers


def _compare_page(name: str, written: str, expected: str) -> Iterator[str]:
    """Yield the numbers of a page that differ, if it has the same ones in the same places."""
    left, right = _list_page_numbers(written), _list_page_numbers(expected)
    if [id for id, _ in left] == [id for id, _ in right]:
        for (id, shown), (_, wanted) in zip(left, right, strict=True):
            if shown != wanted:
                yield f"{name}: {id}: shows {shown}, the sources give {wanted}"


def _compare_lines(name: str, written: list[str], expected: list[str]) -> Iterator[str]:
    pairs = [(number, left, right) for number, (left, right) in enumerate(zip(written, expected, strict=False), 1)
             if left != right]  # fmt: skip
    for number, left, right in pairs[:MAX_LISTED]:
        yield f"{name}, line {number}: {_shorten_difference(left, right)}"
    if len(pairs) > MAX_LISTED:
        yield f"{name}: {len(pairs) - MAX_LISTED} more lines differ"
    if len(written) != len(expected):
        yield f"{name}: {len(written)} lines, the sources give {len(expected)}"


def _shorten_difference(left: str, right: str) -> str:
    """Return the words of two lines around the first difference."""
    start = next((index for index, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]),
                 min(len(left), len(right)))  # fmt: skip
    start = max((match.start() for match in re.finditer(r"\S+", left[: start + 1])), default=0)
    return f"{left[start : start + 60]!r}, the sources give {right[start : start + 60]!r}"
