"""One log file of any format, recognized by its content."""

import io
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from harness.core.formatting import format_bytes
from harness.core.input_files import open_input
from harness.diagnosis.history import LOSS_METRICS, History
from harness.importers.metric_aliases import canonical_name
from harness.importers.programs.recognition import guess_program
from harness.importers.sources.decoding import decode_text, is_binary, iterate_text_lines, plain_line, skip_zeros
from harness.importers.tables.layout import TableLayout
from harness.importers.text.line_prefixes import cut_prefixes, find_prefix
from harness.record.metrics_file import is_record_line

TENSORBOARD_MARKER = b"brain.Event:"  # part of the first record of every TensorBoard event file
JSON_START = re.compile(r'\s*(\{\s*(["}]|\Z)|\[\s*([\[{\]]|\Z))')  # not `[12:30:00] step 1` or `{'loss': 3.2}`
MAX_LOG_BYTES = 10**9  # of a log that is read line by line, unpacked
MAX_JSON_BYTES = 250_000_000  # of a JSON document, which is read as a whole and takes several times its size in memory
MAX_HEADER_CHARS, MAX_TABLE_CHARS, MAX_TABLE_LINES = 1 << 16, 1 << 20, 5_000
"""JSON lines and the header of a table are looked for in so much of the start of a file."""
LINE_END = re.compile(r"\r\n|\n|\r")
SHORTEN = "give its last part (tail -c 100M FILE > part.log), or every tenth line (awk 'NR % 10 == 1' FILE)"
SHORTEN_JSON = "give an earlier checkpoint's, or its log_history as JSONL"
FILE_FORMATS = "a log, CSV, JSONL, trainer_state.json or TensorBoard event file"  # in error messages


def read_log_file(path: Path) -> list[History]:
    """Read the runs in a file.

    Raises:
        ValueError: If it holds no known format; the message names the path.
    """
    with open_input(path, MAX_LOG_BYTES, SHORTEN, allow_pipe=True) as file:
        skip_zeros(file)
        peeked = file.peek()
        if not decode_text(peeked).strip():
            raise ValueError(f"{path}: the file is empty; wait until something is written to it, or pass another log")
        if TENSORBOARD_MARKER in peeked[:64]:
            if not path.is_file() or TENSORBOARD_MARKER not in _read_start(path):
                raise ValueError(f"{path}: event files are read from plain files only; unpack or save it first")
            from harness.importers.programs import tensorboard

            return [tensorboard.read_tensorboard(path)]
        if is_binary(peeked):
            raise ValueError(f"{path}: not a text file; pass a run's folder or {FILE_FORMATS}")
        head = decode_text(peeked)
        return _name_program(_read_text(path, file, head), head)


def _name_program(histories: list[History], head: str) -> list[History]:
    """Note the program that wrote a log, if it can be recognized."""
    for history in histories:
        program = history.facts.program or guess_program(head)
        history.facts = replace(history.facts, program=program)
    return histories


def _read_start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _read_text(path: Path, file: IO[bytes], head: str) -> list[History]:
    """Read a text file that begins with `head`: JSON documents as a whole, everything else line by line."""
    from harness.importers.programs import metric_files, native
    from harness.importers.tables import json_documents, json_lines
    from harness.importers.tables import layout as table_layout
    from harness.importers.tables import reader as tables
    from harness.importers.text import number_lists
    from harness.importers.text import reader as text

    line, line_end, _ = head.lstrip().partition("\n")
    first = json_lines.parse_json(line) if line_end else None
    is_single = not head.lstrip().partition("\n")[2].strip()
    is_start = isinstance(first, dict) and first.get("kind") == "start"
    if is_start or is_record_line(f"{line}\n".encode()):
        return [native.read_native(path, file)]
    if JSON_START.match(head) and (is_single or not isinstance(first, dict) or "log_history" in first):
        content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"{path}: JSON that is larger than {format_bytes(MAX_JSON_BYTES)}; {SHORTEN_JSON}")
        histories = json_documents.read_json_document(decode_text(content), path)
        if histories is not None:
            return histories
        file = io.BufferedReader(io.BytesIO(content))
    lines = iterate_text_lines(file, path, SHORTEN)
    if metric_files.is_metric_file(head):
        return metric_files.read_metric_file(lines, path)
    if isinstance(first, dict) or json_lines.has_json_lines(head[:MAX_HEADER_CHARS]):
        return json_lines.read_json_lines(lines, path)
    head_lines = [plain_line(line) for line in LINE_END.split(head[:MAX_TABLE_CHARS])[:MAX_TABLE_LINES]]
    if number_lists.is_number_list(head_lines[:-1] or head_lines):
        return number_lists.read_number_list(lines, path)
    prefix = find_prefix(head_lines)
    head_lines = list(cut_prefixes(head_lines, prefix))
    layout = table_layout.find_table(head_lines)
    if layout and not _has_more_readings(head_lines, layout, path):
        return tables.read_table(cut_prefixes(lines, prefix), path, layout)
    return text.read_text_log(cut_prefixes(lines, prefix), path)


def _has_more_readings(lines: Sequence[str], layout: TableLayout, path: Path) -> bool:
    """Return whether more of the lines say a loss in words than as a row of the table."""
    from harness.importers.tables import layout as table_layout
    from harness.importers.text import line_rows as text_rows
    from harness.importers.text import lines as text_lines

    if not any(line.strip() for line in lines[: layout.header_at]) and layout.separator in ",;":
        return False
    rows = sum(table_layout.is_row(line, layout) for line in lines[layout.header_at + 1 :])
    others = [line for line in lines if not table_layout.is_row(line, layout)]
    read, _ = text_rows.build_rows(text_lines.collect_lines(others, path), path)
    return sum(any(canonical_name(name) in LOSS_METRICS for name in row.values) for row in read) > rows
