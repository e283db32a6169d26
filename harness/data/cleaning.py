"""Remove duplicate, empty, broken and outlying passages from a text file; the file format is preserved."""

import csv
import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np

from harness.data.mojibake import has_broken_encoding, repair_encoding
from harness.data.outlier_passages import MIN_WINDOWS, WINDOW_SIZE, find_outlier_windows
from harness.data.sources import JSONL, Headlines, QAMarkdown, Source, TextFiles
from harness.data.text_files import MAX_CSV_FIELD_CHARS, get_csv_dialect

CLEANABLE_SOURCES = (TextFiles, QAMarkdown, JSONL, Headlines)
MIN_SECTION_CHARS = 2 * WINDOW_SIZE  # a file that is one document is judged in sections of whole lines of this size
SURROGATE = re.compile(r"[\ud800-\udfff]")
LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Segment:
    """A contiguous part of a file that is kept or dropped as a whole. Segments joined by `raw` are the file."""

    line: int  # line number of its start, from 1
    raw: str  # as in the file, including the separator that follows
    repaired: str  # `raw` with its encoding repaired
    text: str | None  # what it is judged by; None: not a document, always kept
    is_document: bool = True  # duplicates are dropped
    defect: str = ""  # what is wrong with its format


@dataclass(frozen=True)
class CleaningChange:
    """A segment that was dropped or repaired, or what changed `count` times in the whole file, and why."""

    line: int
    action: str
    reason: str
    excerpt: str
    count: int = 1


def clean_text(source: Source, text: str) -> tuple[str, list[CleaningChange]]:
    """Clean the `text` of a file that `source` reads. Cleaning the result again changes nothing.

    Returns:
        The cleaned text, and the changes in the order of the file.

    Raises:
        ValueError: If `source` does not read text files.
    """
    changes: list[CleaningChange] = []
    kept = list(_repair_and_filter(split_segments(source, text), changes))
    while outliers := _find_outliers(kept):  # dropping some moves the medians, so repeat until none is left
        changes += [_record_change(kept[index], "dropped", reason) for index, reason in outliers.items()]
        kept = [segment for index, segment in enumerate(kept) if index not in outliers]
    return "".join(segment.repaired for segment in kept), sorted(changes, key=lambda change: change.line)


def _repair_and_filter(segments: Iterator[Segment], changes: list[CleaningChange]) -> Iterator[Segment]:
    """Yield the segments to keep; append dropped and repaired ones to `changes`."""
    seen: set[str] = set()
    for segment in segments:
        if segment.text is None:
            yield segment
            continue
        key = segment.text.strip()
        if reason := segment.defect or _find_defect(key) or ("duplicate" if key in seen else ""):
            changes.append(_record_change(segment, "dropped", reason))
            continue
        if segment.is_document:
            seen.add(key)
        if segment.repaired != segment.raw:
            changes.append(_record_change(segment, "repaired", "broken encoding"))
        yield segment


def _find_defect(text: str) -> str:
    return "empty" if not text else "broken encoding" if has_broken_encoding(text) else ""


def _find_outliers(kept: Sequence[Segment]) -> dict[int, str]:
    """Return index and reason of segments most of whose byte windows are outliers. Those under a window are skipped."""
    windows, owners = [], []
    for index, segment in enumerate(kept):
        content = np.frombuffer((segment.text or "").lower().encode(), np.uint8)
        for start in range(0, len(content) - WINDOW_SIZE + 1, WINDOW_SIZE):
            windows.append(content[start : start + WINDOW_SIZE])
            owners.append(index)
    if len(windows) < MIN_WINDOWS:
        return {}
    owner = np.array(owners)
    windows_per_segment = np.bincount(owner, minlength=len(kept))
    outliers = {}
    is_outlier, values = find_outlier_windows(np.stack(windows))
    for kind, mask in is_outlier.items():
        median = np.median(values[kind])
        for outlier in np.flatnonzero(np.bincount(owner[mask], minlength=len(kept)) > windows_per_segment / 2):
            value = values[kind][owner == outlier].mean()
            outliers[int(outlier)] = f"outlier: {kind} {value:.1f} nats/byte, median {median:.1f}"
    return outliers


def _record_change(segment: Segment, action: str, reason: str) -> CleaningChange:
    return CleaningChange(segment.line, action, reason, " ".join(segment.raw.split())[:80])


@singledispatch
def split_segments(source: Source, text: str) -> Iterator[Segment]:
    """Split the `text` of a file into the documents that `source` reads and what stands between them."""
    raise ValueError(f"{type(source).__name__} does not read text files; only these can be cleaned")


@split_segments.register
def _(source: TextFiles, text: str) -> Iterator[Segment]:
    if source.split_on is None:
        yield from _split_by_size(text)
        return
    line, start = 1, 0
    separators = [match.span() for match in re.finditer(source.split_on, text, re.M)]
    for end, following in [*separators, (len(text), len(text))]:
        raw, document = text[start:following], repair_encoding(text[start:end])
        yield Segment(line, raw, repair_encoding(raw), document if document.strip() else None)
        line, start = line + raw.count("\n"), following


def _split_by_size(text: str) -> Iterator[Segment]:
    """Split into whole lines. Sizes are those after repair, so that a repaired file is split at the same lines."""
    first, lines, size = 1, [], 0
    for line, raw in enumerate([*LINE.findall(text), ""], 1):
        lines.append(raw)
        size += len(repair_encoding(raw))
        if size >= MIN_SECTION_CHARS or not raw:
            section = "".join(lines)
            repaired = repair_encoding(section)
            yield Segment(first, section, repaired, repaired if repaired.strip() else None, is_document=False)
            first, lines, size = line + 1, [], 0


@split_segments.register
def _(source: QAMarkdown, text: str) -> Iterator[Segment]:
    starts = [match.start() for match in re.finditer(r"^QUESTION:", text, re.M)]
    if not starts:
        raise ValueError("no line begins with QUESTION:; for plain text use data=text")
    preamble = text[: starts[0]]
    yield Segment(1, preamble, repair_encoding(preamble), None)
    line = 1 + preamble.count("\n")
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        raw = text[start:end]
        question, *answers = re.split(r"^ANSWER:", raw.removeprefix("QUESTION:"), flags=re.M)
        defect = "" if len(answers) == 1 else f"{len(answers)} ANSWER: lines"
        is_empty = not (question.strip() and "".join(answers).strip())
        repaired = repair_encoding(raw)
        yield Segment(line, raw, repaired, "" if is_empty else repaired, defect=defect)
        line += raw.count("\n")


@split_segments.register
def _(source: JSONL, text: str) -> Iterator[Segment]:
    has_text, unsuitable = False, ""
    for line, raw in enumerate(LINE.findall(text), 1):
        if not raw.strip():
            yield Segment(line, raw, raw, None)
            continue
        segment, remedy = _parse_json_segment(source, line, raw)
        has_text |= not segment.defect
        unsuitable = unsuitable or (f"line {line}: {segment.defect}; {remedy}" if segment.defect else "")
        yield segment
    if unsuitable and not has_text:  # then the settings are wrong, not the rows
        raise ValueError(_describe_json_document(text) or unsuitable)


def _describe_json_document(text: str) -> str:
    """Return what to do with a JSON document that is not JSON lines; empty if it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return ""
    kind, items = ("array", ".[]") if isinstance(document, list) else ("object", ".")
    is_lines = "\n" not in text.strip() and not isinstance(document, list)
    return "" if is_lines else f"one JSON {kind}, not one on each line; jq -c '{items}' FILE > NEW writes lines"


def _parse_json_segment(source: JSONL, line: int, raw: str) -> tuple[Segment, str]:
    """Return the segment of a row and, if it has a defect, the remedy for a file that consists of such rows."""
    try:
        row = json.loads(raw)
    except (ValueError, RecursionError):
        return Segment(line, raw, raw, "", defect="not JSON"), "write an object on each line, or use data=text"
    if not isinstance(row, dict):
        defect = f"not a JSON object but {type(row).__name__}"
        return Segment(line, raw, raw, "", defect=defect), 'write an object on each line, such as {"text": ...}'
    for parameter, name in (("prompt", source.prompt), ("text", source.text)):
        if name is not None and not isinstance(row.get(name), str):
            defect = (
                f"field {name!r} is no text but {type(row[name]).__name__}" if name in row else f"no field {name!r}"
            )
            return Segment(line, raw, raw, "", defect=defect), _suggest_field(source, parameter, row)
    fixed = {name: repair_encoding(value) if isinstance(value, str) else value for name, value in row.items()}
    fields = [fixed[name] for name in (source.prompt, source.text) if name]
    text = "\n".join(fields) if fields[-1].strip() else ""
    return Segment(line, raw, raw if fixed == row else _dump_json_line(fixed), text), ""


def _suggest_field(source: JSONL, parameter: str, row: dict[str, Any]) -> str:
    """List the fields of a row, and suggest the one for `parameter` with the closest name or the longest text."""
    wanted, other = (source.text, source.prompt) if parameter == "text" else (source.prompt, source.text)
    texts = {name: value for name, value in row.items() if isinstance(value, str) and name != other}
    fields = f"its fields are {', '.join(row)}" if row else "it has no fields"
    if not texts:
        return f"{fields}; none of them can be the {parameter}"
    close = difflib.get_close_matches(str(wanted), texts, n=1)
    name = close[0] if close else max(texts, key=lambda field: len(texts[field]))
    return f"{fields}; choose one, such as data.source.{parameter}={name}"


def _dump_json_line(row: dict[str, Any]) -> str:
    plain = json.dumps(row, ensure_ascii=False)
    return (json.dumps(row) if SURROGATE.search(plain) else plain) + "\n"  # UTF-8 has no surrogates; escape them


@split_segments.register
def _(source: Headlines, text: str) -> Iterator[Segment]:
    lines = LINE.findall(text)
    dialect = get_csv_dialect(source.list_files()[0])
    if dialect is not None:
        yield from _split_table(lines, source.column, dialect)
        return
    for number, raw in enumerate(lines, 1):
        repaired = repair_encoding(raw)
        yield Segment(number, raw, repaired, repaired if repaired.strip() else None)


def _split_table(lines: Sequence[str], column: str | None, dialect: dict[str, Any]) -> Iterator[Segment]:
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    reader = csv.reader(lines, **dialect)
    names = next(reader, [])
    if column not in names:
        raise ValueError(f"column={column!r}: there are {', '.join(names)}; choose one")
    place, end = names.index(column), reader.line_num
    header = "".join(lines[:end])
    yield Segment(1, header, header, None)
    for row in reader:
        raw, line, end = "".join(lines[end : reader.line_num]), end + 1, reader.line_num
        yield Segment(line, raw, repair_encoding(raw), repair_encoding(row[place]) if place < len(row) else "")
