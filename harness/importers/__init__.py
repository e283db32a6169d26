"""Curves read back, whoever recorded them: by what a file holds, never by what it is called."""

import json
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History
from harness.record import metrics_file

TENSORBOARD_MARKER = b"brain.Event:"
"""In the first record of every event file of TensorBoard."""


def read_history(path: Path) -> History:
    """The history in a run's folder, a trainer's, a folder of event files, or in one file of any kind that is known;
    ValueError, in a sentence that names the path, for all else."""
    return _read_folder(path) if path.is_dir() else _read_file(path)


def _read_folder(folder: Path) -> History:
    if (folder / metrics_file.METRICS_FILE).is_file():
        return _read_file(folder / metrics_file.METRICS_FILE)
    states = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    saved = [state for state in states if state.is_file()]
    if saved:
        return _read_file(max(saved, key=lambda state: state.stat().st_mtime))
    logs = sorted({path.parent for path in folder.rglob("*tfevents*")})
    if folder in logs or len(logs) == 1:
        from harness.importers import tensorboard

        return tensorboard.read_tensorboard(folder if folder in logs else logs[0])
    inside = logs or sorted(path.parent for path in folder.glob(f"*/{metrics_file.METRICS_FILE}"))
    if inside:
        named = ", ".join(str(path) for path in inside[:3])
        raise ValueError(f"{folder} holds {len(inside)} runs; name them: {named}{', …' * (len(inside) > 3)}")
    raise ValueError(
        f"{folder} holds no {metrics_file.METRICS_FILE}, no trainer_state.json and no event file; name a log in it"
    )


def _read_file(path: Path) -> History:
    with path.open("rb") as file:
        head = file.read(4096)
        head += b"" if b"\n" in head else file.readline()
    text = head.decode("utf-8-sig", errors="replace")
    if not text.strip():
        raise ValueError(f"{path} is empty")
    if TENSORBOARD_MARKER in head[:64]:
        from harness.importers import tensorboard

        return tensorboard.read_tensorboard(path)
    if b"\0" in head:
        raise ValueError(f"{path} holds no text; give a run's folder, a log, a CSV, a JSONL or an event file")
    return _read_text(path, text)


def _read_text(path: Path, head: str) -> History:
    from harness.importers import native, tables, text, trainer_state

    first = _parse_json(head.lstrip().partition("\n")[0])
    if isinstance(first, dict) and first.get("kind") == "start":
        return native.read_native(path)
    whole = _parse_json(path.read_text(encoding="utf-8-sig", errors="replace")) if head.lstrip()[0] in "{[" else None
    if isinstance(whole, dict) and "log_history" in whole:
        return trainer_state.read_trainer_state(path)
    if isinstance(first, dict) or isinstance(whole, list):
        return tables.read_jsonl_history(path)
    if isinstance(whole, dict):
        raise ValueError(f"{path} is JSON without the log_history of a trainer_state.json, and no JSONL")
    return tables.read_csv_history(path) if tables.detect_delimiter(head) else text.read_text_log(path)


def _parse_json(text: str) -> Any:
    """None for what is no JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
