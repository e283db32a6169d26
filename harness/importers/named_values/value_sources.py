"""Sources of named values that grow while a program runs: a file, a document, or a folder of event files."""

import codecs
import glob
import io
import json
import os
import time
from pathlib import Path
from typing import IO, Protocol

from harness.core.files import check_regular_file
from harness.importers import read_history
from harness.importers.named_values.curves import Moment, NamedCurve, NamedCurves
from harness.importers.named_values.output_reader import OutputReader
from harness.importers.named_values.value_documents import YAML_SUFFIXES, read_document
from harness.importers.named_values.value_names import ValueName
from harness.importers.sources.decoding import decode_text, detect_encoding, is_binary
from harness.importers.sources.folders import find_trainer_state
from harness.importers.sources.log_files import JSON_START, MAX_JSON_BYTES, TENSORBOARD_MARKER

CHUNK_BYTES = 1 << 20
MAX_BYTES_PER_READ = 32 << 20
"""Limit of one read while the program runs; the rest is read the next time."""
HEAD_BYTES = 256  # at the start of a file, by which a new content is recognized
WAIT_FACTOR = 10
"""A document that is read as a whole again and again takes at most a tenth of the time."""


class ValueSource(Protocol):
    """Something that is read again and again while it grows."""

    def read(self, is_final: bool) -> NamedCurves:
        """Return the curves so far.

        Raises:
            ValueError: If it cannot be read, when it is final.
        """
        ...


class FileSource:
    """A file of any format, or a folder. It need not exist yet, and may be replaced by a new file.

    `path` may have wildcards, as in `lightning_logs/version_*/metrics.csv`; of several files the latest is read.
    An output is text while it grows, even if it begins with a configuration as JSON; at its end it may be one document.
    """

    def __init__(self, path: str, is_output: bool = False) -> None:
        self._pattern, self._is_output = path, is_output
        self._inner: ValueSource | None = None
        self._found: Path | None = None
        self._empty = NamedCurves()

    def read(self, is_final: bool) -> NamedCurves:
        path = find_source_path(self._pattern)
        if path is None:
            if is_final:
                raise ValueError(f"{self._pattern}: no such file or folder; check what the program writes, and where")
            return self._empty
        if self._is_output and path.is_file():
            self._open_output(path, is_final)
        elif self._inner is None or path != self._found:
            self._inner, self._found = _open_source(path, is_final), path
        return self._inner.read(is_final) if self._inner is not None else self._empty

    def _open_output(self, path: Path, is_final: bool) -> None:
        if is_final and path.stat().st_size <= MAX_JSON_BYTES and isinstance(self._inner, GrowingText | None):
            with path.open("rb") as file:
                head = decode_text(file.read(CHUNK_BYTES))
            if is_document(head):
                self._inner = RewrittenDocument(path)
        self._inner = self._inner or GrowingText(path)


class GrowingText:
    """A file to which text is added. Only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._restart()

    def _restart(self) -> None:
        self._reader, self._offset, self._head = OutputReader(), 0, b""
        self._decoder: codecs.IncrementalDecoder | None = None
        self._is_finished = False

    def read(self, is_final: bool) -> NamedCurves:
        try:
            with self._path.open("rb") as file:
                self._read_new(file, is_final)
        except OSError:
            if is_final:
                raise
        if is_final and not self._is_finished:
            self._reader.finish()
            self._is_finished = True
        return self._reader.curves

    def _read_new(self, file: IO[bytes], is_final: bool) -> None:
        state = os.fstat(file.fileno())
        head = file.read(HEAD_BYTES)
        if state.st_size < self._offset or not head.startswith(self._head):
            self._restart()
        self._head = head
        if self._decoder is None and len(head) > 1:
            encoding = detect_encoding(head)
            self._decoder = codecs.getincrementaldecoder(encoding)(
                "surrogateescape" if encoding == "utf-8" else "replace"
            )
        if self._decoder is None and not is_final:
            return
        file.seek(self._offset)
        limit = self._offset + MAX_BYTES_PER_READ
        while (is_final or self._offset < limit) and (chunk := file.read(CHUNK_BYTES)):
            self._offset += len(chunk)
            self._reader.feed(self._decoder.decode(chunk) if self._decoder else chunk.decode(errors="replace"))


class RewrittenDocument:
    """A document that a program writes as a whole, maybe again and again. A half-written one counts for nothing.

    A file whose first line or lines are a document is read as text as soon as more follows.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._text: GrowingText | None = None
        self._curves = NamedCurves()
        self._stamp: tuple[int, ...] = ()
        self._next_time = 0.0

    def read(self, is_final: bool) -> NamedCurves:
        if self._text is not None:
            return self._text.read(is_final)
        try:
            state = self._path.stat()
        except OSError:
            if is_final:
                raise
            return self._curves
        stamp = (state.st_ino, state.st_size, state.st_mtime_ns)
        if stamp == self._stamp or (not is_final and time.monotonic() < self._next_time):
            return self._curves
        if state.st_size > MAX_JSON_BYTES:
            raise ValueError(f"{self._path}: larger than {MAX_JSON_BYTES:,} bytes; write one object a line instead")
        started = time.monotonic()
        text = decode_text(self._path.read_bytes())
        curves = read_document(text, self._path)
        if curves is None and _begins_with_document(text):
            self._text = GrowingText(self._path)
            return self._text.read(is_final)
        if curves is None and is_final and self._stamp:
            raise ValueError(f"{self._path}: was whole before and is cut off now; write a new file and rename it")
        if curves is None and is_final:
            reader = OutputReader()
            reader.feed(text)
            reader.finish()
            curves = reader.curves
        if curves is not None:
            self._curves, self._stamp = curves, stamp
        self._next_time = time.monotonic() + WAIT_FACTOR * (time.monotonic() - started)
        return self._curves


def _begins_with_document(text: str) -> bool:
    """Return whether a text begins with a whole JSON document."""
    try:
        json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return True


def read_validation_loss(path: Path) -> NamedCurve | None:
    """Return the validation loss of the only run in a log, as the importers infer it from the whole log."""
    try:
        losses = read_history(path)["val/loss"]
    except (ValueError, OSError):
        return None
    curve = NamedCurve(ValueName("val/loss"))
    for step, value in zip(*losses, strict=True):
        curve.add(float(value), Moment(int(step)))
    return curve if len(curve) else None


def find_source_path(pattern: str) -> Path | None:
    """Return the file or folder of this name, or the latest one that fits its wildcards."""
    path = Path(pattern)
    if path.is_dir():
        return find_trainer_state(path) or path
    if path.exists():
        return path
    if (
        path.name == "trainer_state.json" and path.parent.is_dir()
    ):  # while a Trainer runs, only its checkpoints have one
        return find_trainer_state(path.parent)
    found = [Path(name) for name in glob.glob(pattern)] if glob.has_magic(pattern) else []
    return max(found, key=lambda one: one.stat().st_mtime_ns, default=None)


def _open_source(path: Path, is_final: bool) -> ValueSource | None:
    """Return the source for what is at `path`, by its content; None if it has none yet.

    Raises:
        ValueError: If it is of a kind that cannot be read, or a folder without anything that can be.
    """
    if path.is_dir():
        return _open_folder(path, is_final)
    check_regular_file(path)
    with path.open("rb") as file:
        head = io.BufferedReader(file, CHUNK_BYTES).peek()[:CHUNK_BYTES]
    if TENSORBOARD_MARKER in head[:64]:
        return _open_events(path)
    if not head.strip() and not is_final:
        return None
    if is_binary(head):
        raise ValueError(f"{path}: not a text file; --read takes text, tables, JSON, YAML or event files")
    if path.suffix.lower() in YAML_SUFFIXES or is_document(decode_text(head)):
        return RewrittenDocument(path)
    return GrowingText(path)


def is_document(head: str) -> bool:
    """Return whether a text that begins so is one JSON document rather than one object on each line."""
    from harness.importers.tables.json_lines import parse_json

    if not JSON_START.match(head):
        return False
    first, line_end, rest = head.lstrip().partition("\n")
    is_object = isinstance(parse_json(first), dict)
    return not (is_object and line_end and rest.strip()) or "log_history" in first


def _open_folder(folder: Path, is_final: bool) -> ValueSource | None:
    if any("tfevents" in file.name for file in folder.rglob("*tfevents*")):
        return _open_events(folder)
    if is_final:
        raise ValueError(f"{folder}: no event files or trainer_state.json in this folder; name a file with --read")
    return None


def _open_events(path: Path) -> ValueSource:
    from harness.importers.programs.tensorboard import EventSource

    return EventSource(path)
