"""A file of text without copies, empty and broken documents and passages unlike the rest, in the format that it has."""

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import singledispatch
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from harness.data.mojibake import has_broken_encoding, repair_encoding
from harness.data.outlier_passages import MIN_WINDOWS, WINDOW_SIZE, find_outlier_windows
from harness.data.sources import JSONL, MAX_CSV_FIELD_CHARS, Headlines, QAMarkdown, Source, TextFiles

CLEANABLE_SOURCES = (TextFiles, QAMarkdown, JSONL, Headlines)
MIN_SECTION_CHARS = 2 * WINDOW_SIZE
"""Characters at least of the whole lines that are judged together in a text that is one document."""
SURROGATE = re.compile(r"[\ud800-\udfff]")
LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Segment:
    """A part of a file: `raw` as it stands there from line `line` on, with what parts it from the next, `whole` the
    same mended, and the `text` that it is judged by, None for what is no document and stays. Copies of documents are
    dropped, of other pieces not; `flaw` says what is wrong with its form."""

    line: int
    raw: str
    repaired: str
    text: str | None
    is_document: bool = True
    defect: str = ""


@dataclass(frozen=True)
class CleaningChange:
    """What was done with the piece that begins at `line` and why; `begins` are its first characters."""

    line: int
    action: str
    reason: str
    excerpt: str


def clean_text(source: Source, text: str) -> tuple[str, list[CleaningChange]]:
    """What of a file's `text` is kept, and what changed on the way; nothing would in what is kept.

    ValueError for a source that reads no file of text."""
    changes: list[CleaningChange] = []
    kept = list(_repair_and_filter(split_segments(source, text), changes))
    while odd := _find_outliers(kept):
        for index, reason in odd.items():
            changes.append(_record_change(kept[index], "dropped", reason))
        kept = [piece for index, piece in enumerate(kept) if index not in odd]
    return "".join(piece.repaired for piece in kept), sorted(changes, key=lambda change: change.line)


def _repair_and_filter(found: Iterator[Segment], changes: list[CleaningChange]) -> Iterator[Segment]:
    """Pieces with text, mended, of which each is the first of its kind; the others become changes."""
    seen: set[str] = set()
    for piece in found:
        if piece.text is None:
            yield piece
            continue
        key = piece.text.strip()
        reason = piece.defect or _find_defect(key) or ("duplicate" if piece.is_document and key in seen else "")
        if reason:
            changes.append(_record_change(piece, "dropped", reason))
            continue
        seen.add(key)
        if piece.repaired != piece.raw:
            changes.append(_record_change(piece, "mended", "broken encoding"))
        yield piece


def _find_defect(text: str) -> str:
    return "empty" if not text else "broken encoding" if has_broken_encoding(text) else ""


def _find_outliers(kept: Sequence[Segment]) -> dict[int, str]:
    """Those most of whose windows are unlike the rest, with the reason; shorter ones than a window are not judged."""
    windows, owners = [], []
    for index, piece in enumerate(kept):
        content = np.frombuffer((piece.text or "").lower().encode(), np.uint8)
        for start in range(0, len(content) - WINDOW_SIZE + 1, WINDOW_SIZE):
            windows.append(content[start : start + WINDOW_SIZE])
            owners.append(index)
    if len(windows) < MIN_WINDOWS:
        return {}
    of_each = np.bincount(owners, minlength=len(kept))
    odd = {}
    is_out, values = find_outlier_windows(np.stack(windows))
    for kind, out in is_out.items():
        usual, owner = np.median(values[kind]), np.array(owners)
        for index in np.flatnonzero(np.bincount(owner[out], minlength=len(kept)) > of_each / 2):
            seen = values[kind][(owner == index)].mean()
            odd[int(index)] = f"unlike the rest: {kind} {seen:.1f} nats a byte, {usual:.1f} is usual"
    return odd


def _record_change(piece: Segment, action: str, reason: str) -> CleaningChange:
    return CleaningChange(piece.line, action, reason, " ".join(piece.raw.split())[:80])


@singledispatch
def split_segments(source: Source, text: str) -> Iterator[Segment]:
    """The parts of a file's `text` as `source` reads it; joined, their `raw` is the text."""
    raise ValueError(f"{type(source).__name__} reads no file of text that could be cleaned")


@split_segments.register
def _(source: TextFiles, text: str) -> Iterator[Segment]:
    if source.split_on is None:
        yield from _split_by_size(text)
        return
    line, at = 1, 0
    for end, following in [*(match.span() for match in re.finditer(source.split_on, text, re.M)), (len(text),) * 2]:
        raw, piece = text[at:following], repair_encoding(text[at:end])
        yield Segment(line, raw, repair_encoding(raw), piece if piece.strip() else None)
        line, at = line + raw.count("\n"), following


def _split_by_size(text: str) -> Iterator[Segment]:
    """Whole lines; what is mended is cut where it was cut before."""
    first, lines, size = 1, [], 0
    for line, raw in enumerate([*LINE.findall(text), ""], 1):
        lines.append(raw)
        size += len(repair_encoding(raw))
        if size >= MIN_SECTION_CHARS or not raw:
            stretch = "".join(lines)
            whole = repair_encoding(stretch)
            yield Segment(first, stretch, whole, whole if whole.strip() else None, is_document=False)
            first, lines, size = line + 1, [], 0


@split_segments.register
def _(source: QAMarkdown, text: str) -> Iterator[Segment]:
    starts = [match.start() for match in re.finditer(r"^QUESTION:", text, re.M)]
    if not starts:
        raise ValueError("no line begins with QUESTION:; for plain text use data=text")
    before = text[: starts[0]]
    yield Segment(1, before, repair_encoding(before), None)
    line = 1 + before.count("\n")
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        raw = text[start:end]
        question, *answers = re.split(r"^ANSWER:", raw.removeprefix("QUESTION:"), flags=re.M)
        flaw = "" if len(answers) == 1 else f"{len(answers)} ANSWER: lines"
        is_empty = not (question.strip() and "".join(answers).strip())
        yield Segment(line, raw, repair_encoding(raw), "" if is_empty else repair_encoding(raw), defect=flaw)
        line += raw.count("\n")


@split_segments.register
def _(source: JSONL, text: str) -> Iterator[Segment]:
    for line, raw in enumerate(LINE.findall(text), 1):
        yield _parse_json_segment(source, line, raw) if raw.strip() else Segment(line, raw, raw, None)


def _parse_json_segment(source: JSONL, line: int, raw: str) -> Segment:
    """Written anew only where there is something to mend in it."""
    try:
        row = json.loads(raw)
        new = {name: repair_encoding(value) if isinstance(value, str) else value for name, value in row.items()}
        fields = [new[name] for name in (source.prompt, source.text) if name]
        read = "\n".join(fields) if fields[-1].strip() else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return Segment(line, raw, raw, "", defect="no object with text in its fields")
    return Segment(line, raw, raw if new == row else _dump_json_line(new), read)


def _dump_json_line(row: dict[str, Any]) -> str:
    """As a line of JSON; half characters (surrogates), which no UTF-8 holds, as escapes."""
    plain = json.dumps(row, ensure_ascii=False)
    return (json.dumps(row) if SURROGATE.search(plain) else plain) + "\n"


@split_segments.register
def _(source: Headlines, text: str) -> Iterator[Segment]:
    lines = LINE.findall(text)
    kind = Path(source.path.removesuffix(".gz")).suffix
    if kind in (".csv", ".tsv"):
        yield from _split_table(
            lines, source.column, {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {}
        )
    else:
        whole = map(repair_encoding, lines)
        yield from (Segment(n, raw, new, new if new.strip() else None) for n, raw, new in zip(count(1), lines, whole))


def _split_table(lines: Sequence[str], column: str | None, dialect: dict[str, Any]) -> Iterator[Segment]:
    csv.field_size_limit(MAX_CSV_FIELD_CHARS)
    reader = csv.reader(lines, **dialect)
    names = next(reader, [])
    if column not in names:
        raise ValueError(f"column={column!r}: there are {', '.join(names)}; choose one")
    place, at = names.index(column), reader.line_num
    header = "".join(lines[:at])
    yield Segment(1, header, header, None)
    for row in reader:
        raw, line, at = "".join(lines[at : reader.line_num]), at + 1, reader.line_num
        yield Segment(line, raw, repair_encoding(raw), repair_encoding(row[place]) if place < len(row) else "")
