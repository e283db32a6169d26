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

from harness.data.mojibake import is_broken, mended
from harness.data.outlier_passages import FEWEST_WINDOWS, WINDOW, outlying
from harness.data.sources import JSONL, LONGEST_FIELD, Headlines, QAMarkdown, Source, TextFiles

READABLE = (TextFiles, QAMarkdown, JSONL, Headlines)
STRETCH = 2 * WINDOW
"""Characters at least of the whole lines that are judged together in a text that is one document."""
SURROGATE = re.compile(r"[\ud800-\udfff]")
LINE = re.compile(r"[^\n]*\n|[^\n]+")


@dataclass(frozen=True)
class Piece:
    """A part of a file: `raw` as it stands there from line `line` on, with what parts it from the next, `whole` the
    same mended, and the `text` that it is judged by, None for what is no document and stays. Copies of documents are
    dropped, of other pieces not; `flaw` says what is wrong with its form."""

    line: int
    raw: str
    whole: str
    text: str | None
    is_document: bool = True
    flaw: str = ""


@dataclass(frozen=True)
class Change:
    """What was done with the piece that begins at `line` and why; `begins` are its first characters."""

    line: int
    did: str
    reason: str
    begins: str


def clean(source: Source, text: str) -> tuple[str, list[Change]]:
    """What of a file's `text` is kept, and what changed on the way; nothing would in what is kept.

    ValueError for a source that reads no file of text."""
    changes: list[Change] = []
    kept = list(_sound(pieces(source, text), changes))
    while odd := _odd(kept):
        for index, reason in odd.items():
            changes.append(_change(kept[index], "dropped", reason))
        kept = [piece for index, piece in enumerate(kept) if index not in odd]
    return "".join(piece.whole for piece in kept), sorted(changes, key=lambda change: change.line)


def _sound(found: Iterator[Piece], changes: list[Change]) -> Iterator[Piece]:
    """Pieces with text, mended, of which each is the first of its kind; the others become changes."""
    seen: set[str] = set()
    for piece in found:
        if piece.text is None:
            yield piece
            continue
        key = piece.text.strip()
        reason = piece.flaw or _flaw(key) or ("duplicate" if piece.is_document and key in seen else "")
        if reason:
            changes.append(_change(piece, "dropped", reason))
            continue
        seen.add(key)
        if piece.whole != piece.raw:
            changes.append(_change(piece, "mended", "broken encoding"))
        yield piece


def _flaw(text: str) -> str:
    return "empty" if not text else "broken encoding" if is_broken(text) else ""


def _odd(kept: Sequence[Piece]) -> dict[int, str]:
    """Those most of whose windows are unlike the rest, with the reason; shorter ones than a window are not judged."""
    windows, owners = [], []
    for index, piece in enumerate(kept):
        content = np.frombuffer((piece.text or "").lower().encode(), np.uint8)
        for start in range(0, len(content) - WINDOW + 1, WINDOW):
            windows.append(content[start : start + WINDOW])
            owners.append(index)
    if len(windows) < FEWEST_WINDOWS:
        return {}
    of_each = np.bincount(owners, minlength=len(kept))
    odd = {}
    is_out, values = outlying(np.stack(windows))
    for kind, out in is_out.items():
        usual, owner = np.median(values[kind]), np.array(owners)
        for index in np.flatnonzero(np.bincount(owner[out], minlength=len(kept)) > of_each / 2):
            seen = values[kind][(owner == index)].mean()
            odd[int(index)] = f"unlike the rest: {kind} {seen:.1f} nats a byte, {usual:.1f} is usual"
    return odd


def _change(piece: Piece, did: str, reason: str) -> Change:
    return Change(piece.line, did, reason, " ".join(piece.raw.split())[:80])


@singledispatch
def pieces(source: Source, text: str) -> Iterator[Piece]:
    """The parts of a file's `text` as `source` reads it; joined, their `raw` is the text."""
    raise ValueError(f"{type(source).__name__} reads no file of text that could be cleaned")


@pieces.register
def _(source: TextFiles, text: str) -> Iterator[Piece]:
    if source.split_on is None:
        yield from _stretches(text)
        return
    line, at = 1, 0
    for end, following in [*(match.span() for match in re.finditer(source.split_on, text, re.M)), (len(text),) * 2]:
        raw, piece = text[at:following], mended(text[at:end])
        yield Piece(line, raw, mended(raw), piece if piece.strip() else None)
        line, at = line + raw.count("\n"), following


def _stretches(text: str) -> Iterator[Piece]:
    """Whole lines; what is mended is cut where it was cut before."""
    first, lines, size = 1, [], 0
    for line, raw in enumerate([*LINE.findall(text), ""], 1):
        lines.append(raw)
        size += len(mended(raw))
        if size >= STRETCH or not raw:
            stretch = "".join(lines)
            whole = mended(stretch)
            yield Piece(first, stretch, whole, whole if whole.strip() else None, is_document=False)
            first, lines, size = line + 1, [], 0


@pieces.register
def _(source: QAMarkdown, text: str) -> Iterator[Piece]:
    starts = [match.start() for match in re.finditer(r"^QUESTION:", text, re.M)]
    if not starts:
        raise ValueError("no line begins with QUESTION:; for plain text use data=text")
    before = text[: starts[0]]
    yield Piece(1, before, mended(before), None)
    line = 1 + before.count("\n")
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        raw = text[start:end]
        question, *answers = re.split(r"^ANSWER:", raw.removeprefix("QUESTION:"), flags=re.M)
        flaw = "" if len(answers) == 1 else f"{len(answers)} ANSWER: lines"
        is_empty = not (question.strip() and "".join(answers).strip())
        yield Piece(line, raw, mended(raw), "" if is_empty else mended(raw), flaw=flaw)
        line += raw.count("\n")


@pieces.register
def _(source: JSONL, text: str) -> Iterator[Piece]:
    for line, raw in enumerate(LINE.findall(text), 1):
        yield _object(source, line, raw) if raw.strip() else Piece(line, raw, raw, None)


def _object(source: JSONL, line: int, raw: str) -> Piece:
    """Written anew only where there is something to mend in it."""
    try:
        row = json.loads(raw)
        new = {name: mended(value) if isinstance(value, str) else value for name, value in row.items()}
        fields = [new[name] for name in (source.prompt, source.text) if name]
        read = "\n".join(fields) if fields[-1].strip() else ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return Piece(line, raw, raw, "", flaw="no object with text in its fields")
    return Piece(line, raw, raw if new == row else _written(new), read)


def _written(row: dict[str, Any]) -> str:
    """As a line of JSON; half characters (surrogates), which no UTF-8 holds, as escapes."""
    plain = json.dumps(row, ensure_ascii=False)
    return (json.dumps(row) if SURROGATE.search(plain) else plain) + "\n"


@pieces.register
def _(source: Headlines, text: str) -> Iterator[Piece]:
    lines = LINE.findall(text)
    kind = Path(source.path.removesuffix(".gz")).suffix
    if kind in (".csv", ".tsv"):
        yield from _rows(lines, source.column, {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if kind == ".tsv" else {})
    else:
        whole = map(mended, lines)
        yield from (Piece(n, raw, new, new if new.strip() else None) for n, raw, new in zip(count(1), lines, whole))


def _rows(lines: Sequence[str], column: str | None, dialect: dict[str, Any]) -> Iterator[Piece]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(lines, **dialect)
    names = next(reader, [])
    if column not in names:
        raise ValueError(f"column={column!r}: there are {', '.join(names)}; choose one")
    place, at = names.index(column), reader.line_num
    header = "".join(lines[:at])
    yield Piece(1, header, header, None)
    for row in reader:
        raw, line, at = "".join(lines[at : reader.line_num]), at + 1, reader.line_num
        yield Piece(line, raw, mended(raw), mended(row[place]) if place < len(row) else "")
