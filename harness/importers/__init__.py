"""Import of training curves recorded by this harness or by other programs, one format per file.

A single file is recognized by its content, a folder by its file names. Modules are imported on demand.
"""

import json
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History
from harness.record.metrics_file import METRICS_FILE

TENSORBOARD_MARKER = b"brain.Event:"  # part of the first record of every TensorBoard event file
FILE_FORMATS = "a log, CSV, JSONL, trainer_state.json or TensorBoard event file"  # in error messages


def read_history(path: Path) -> History:
    """Read the history in a run's folder, a transformers output folder, a folder of event files, or one log file.

    Raises:
        ValueError: If the path holds no known format, or several runs; the message names the path.
    """
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(folder: Path) -> History:
    if (folder / METRICS_FILE).is_file():
        return _read_file(folder / METRICS_FILE)
    states = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    existing = [state for state in states if state.is_file()]
    if existing:
        return _read_file(max(existing, key=lambda state: state.stat().st_mtime))
    event_folders = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if folder in event_folders or len(event_folders) == 1:
        from harness.importers import tensorboard

        return tensorboard.read_tensorboard(folder if folder in event_folders else event_folders[0])
    runs = event_folders or sorted(path.parent for path in folder.glob(f"*/{METRICS_FILE}"))
    if runs:
        examples = ", ".join(str(path) for path in runs[:3])
        raise ValueError(f"{folder}: contains {len(runs)} runs; pass their paths: {examples}{', …' * (len(runs) > 3)}")
    raise ValueError(
        f"{folder}: contains no {METRICS_FILE}, trainer_state.json or TensorBoard event file; "
        f"pass the path of {FILE_FORMATS}"
    )


def _read_file(path: Path) -> History:
    with path.open("rb") as file:
        head = file.read(4096)
        head += b"" if b"\n" in head else file.readline()  # the first line of JSONL may be long
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise ValueError(f"{path}: the file is empty")
    if TENSORBOARD_MARKER in head[:64]:
        from harness.importers import tensorboard

        return tensorboard.read_tensorboard(path)
    if b"\0" in head:
        raise ValueError(f"{path}: not a text file; pass a run's folder or {FILE_FORMATS}")
    return _read_text(path, text)


def _read_text(path: Path, head: str) -> History:
    from harness.importers import native, tables, text, trainer_state

    first_line = _parse_json(head.lstrip().partition("\n")[0])
    if isinstance(first_line, dict) and first_line.get("kind") == "start":
        return native.read_native(path)
    content = _parse_json(path.read_text(encoding="utf-8-sig", errors="replace")) if head.lstrip()[0] in "{[" else None
    if isinstance(content, dict) and "log_history" in content:
        return trainer_state.read_trainer_state(path)
    if isinstance(first_line, dict) or isinstance(content, list):
        return tables.read_jsonl_history(path)
    if isinstance(content, dict):
        raise ValueError(f"{path}: a JSON object without log_history; pass JSONL or a trainer_state.json")
    return tables.read_csv_history(path) if tables.detect_delimiter(head) else text.read_text_log(path)


def _parse_json(text: str) -> Any:
    """Return the parsed value, or None for invalid JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
