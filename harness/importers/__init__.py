"""Import of training curves recorded by this harness or by other programs, one format per file.

A single file is recognized by its content, a folder by its file names. Modules are imported on demand.
"""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from harness.core.formatting import format_bytes
from harness.core.input_files import open_input
from harness.diagnosis.history import History
from harness.importers.decoding import decode_text, is_binary, iterate_text_lines, skip_zeros
from harness.importers.programs import guess_program
from harness.record.metrics_file import METRICS_FILE, is_record_line

TENSORBOARD_MARKER = b"brain.Event:"  # part of the first record of every TensorBoard event file
JSON_START = re.compile(r'\s*(\{\s*(["}]|\Z)|\[\s*([\[{\]]|\Z))')  # not `[12:30:00] step 1` or `{'loss': 3.2}`
MAX_LOG_BYTES = 10**9  # of a log that is read line by line, unpacked
MAX_JSON_BYTES = 250_000_000  # of a JSON document, which is read as a whole and takes several times its size in memory
MAX_HEADER_CHARS = 1 << 16
SHORTEN = "give its last part (tail -c 100M FILE > part.log), or every tenth line (awk 'NR % 10 == 1' FILE)"
SHORTEN_JSON = "give an earlier checkpoint's, or its log_history as JSONL"
FILE_FORMATS = "a log, CSV, JSONL, trainer_state.json or TensorBoard event file"  # in error messages


def read_history(path: Path) -> History:
    """Read the only run at `path`, as `read_histories` does.

    Raises:
        ValueError: If the path holds no known format, or several runs; the message names the path.
    """
    histories = read_histories(path)
    if len(histories) > 1:
        raise ValueError(f"{path}: contains {len(histories)} runs; give one of them")
    return histories[0]


def read_histories(path: Path) -> list[History]:
    """Read the runs in a run's folder, a transformers output folder, a folder of event files, or one log file.

    Raises:
        ValueError: If the path holds no known format; the message names the path.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(folder: Path) -> list[History]:
    if (folder / METRICS_FILE).is_file():
        return _read_file(folder / METRICS_FILE)
    states = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    existing = [state for state in states if state.is_file()]
    if existing:
        return _read_file(max(existing, key=lambda state: state.stat().st_mtime))
    event_folders = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if folder in event_folders or len(event_folders) == 1:
        from harness.importers import tensorboard

        return [tensorboard.read_tensorboard(folder if folder in event_folders else event_folders[0])]
    runs = event_folders or sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
    if runs:
        examples = ", ".join(str(path) for path in runs[:3])
        raise ValueError(f"{folder}: contains {len(runs)} runs; pass their paths: {examples}{', …' * (len(runs) > 3)}")
    raise ValueError(
        f"{folder}: contains no {METRICS_FILE}, trainer_state.json or TensorBoard event file; "
        f"pass the path of {FILE_FORMATS}"
    )


def _read_file(path: Path) -> list[History]:
    with open_input(path, MAX_LOG_BYTES, SHORTEN, allow_pipe=True) as file:
        skip_zeros(file)
        peeked = file.peek()
        head = peeked[:4096]
        head += b"" if b"\n" in head else peeked[4096:].partition(b"\n")[0]  # the first line of JSONL may be long
        if not decode_text(peeked).strip():
            raise ValueError(f"{path}: the file is empty")
        if TENSORBOARD_MARKER in head[:64]:
            if not path.is_file() or TENSORBOARD_MARKER not in _read_start(path):
                raise ValueError(f"{path}: event files are read from plain files only; unpack or save it first")
            from harness.importers import tensorboard

            return [tensorboard.read_tensorboard(path)]
        if is_binary(peeked):
            raise ValueError(f"{path}: not a text file; pass a run's folder or {FILE_FORMATS}")
        text = decode_text(peeked)
        return _name_program(_read_text(path, file, text), text)


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
    """Read a text file that begins with `head`: JSON as a whole, everything else line by line."""
    from harness.importers import native, tables, text, trainer_state

    line, line_end, _ = head.lstrip().partition("\n")
    first = _parse_json(line) if line_end else None
    is_start = isinstance(first, dict) and first.get("kind") == "start"
    if is_start or is_record_line(f"{line}\n".encode()):
        return [native.read_native(path, file)]
    if JSON_START.match(head) and not (isinstance(first, dict) and "log_history" not in first):
        content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"{path}: JSON that is larger than {format_bytes(MAX_JSON_BYTES)}; {SHORTEN_JSON}")
        whole = _parse_json(decode_text(content))
        if isinstance(whole, dict) and "log_history" in whole:
            return [trainer_state.read_trainer_state(whole, path)]
        if isinstance(whole, list):
            return tables.read_json_histories(whole, path)
        first = _parse_json(decode_text(content).lstrip().partition("\n")[0])
        if isinstance(whole, dict) and not isinstance(first, dict):
            raise ValueError(f"{path}: a JSON object without log_history; pass JSONL or a trainer_state.json")
        file = io.BufferedReader(io.BytesIO(content))
    lines = iterate_text_lines(file, path, SHORTEN)
    if isinstance(first, dict):
        return tables.read_jsonl_histories(lines, path)
    delimiter = tables.detect_delimiter(head[:MAX_HEADER_CHARS])
    return tables.read_csv_histories(lines, path, delimiter) if delimiter else text.read_text_log(lines, path)


def _parse_json(text: str) -> Any:
    """Return the parsed value, or None for invalid JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
