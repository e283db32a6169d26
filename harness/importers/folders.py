"""Folders: of a run, of a trainer's output, of a tracker, of event files, or of logs of any name."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.core.input_files import open_input
from harness.diagnosis.history import History
from harness.importers.cells import split_words
from harness.importers.log_files import FILE_FORMATS, read_log_file
from harness.record.metrics_file import METRICS_FILE

TABLE_FILES = ("metrics.csv", "results.csv", "summary.csv", "progress.csv", "history.csv", "trainer_log.jsonl")
"""Names under which Lightning, ultralytics, timm and others save the curves of one run."""
LOG_SUFFIXES = split_words(".csv .tsv .jsonl .json .log .txt .out .err .stdout .md .ndjson .gz") | {""}
OTHER_FILES = re.compile(
    r"(?:config|tokenizer|vocab|special_tokens|added_tokens|generation|preprocessor|processor|package|args|hparams|"
    r"adapter_config|all_results|train_results|eval_results|wandb-(?:summary|metadata)|merges|requirements|license|"
    r"labels|dataset_info|quantize|chat_template|model\.safetensors|pytorch_model|optimizer|scheduler|rng_state|"
    r"modules|sentence_|training_args|setup|makefile|dockerfile|\.)",
    re.IGNORECASE,
)
"""Names of files that hold no curves. Names of other files may do so, and are tried."""
MAX_LOGS, MAX_ENTRIES, MAX_DEPTH = 64, 5_000, 4


def read_folder(folder: Path) -> list[History]:
    """Read the runs in a folder. Of files that hold the same run, the one that says most is read.

    Raises:
        ValueError: If no file in it is a log, or there are too many.
    """
    if (folder / METRICS_FILE).is_file():
        return read_log_file(folder / METRICS_FILE)
    if state := _find_trainer_state(folder):
        return read_log_file(state)
    if output := _find_wandb_output(folder):
        return read_log_file(output)
    files = list(_iterate_files(folder))
    tables = _prefer_top([path for path in files if path.name in (*TABLE_FILES, METRICS_FILE)], folder)
    events = _prefer_top([path for path in files if "tfevents" in path.name], folder)
    event_folders = sorted({path.parent for path in events} - {path.parent for path in tables})
    logs = [*tables, *event_folders] or _prefer_top([path for path in files if _may_be_log(path)], folder)
    if not logs:
        raise ValueError(f"{folder}: contains no log; pass the path of {FILE_FORMATS}")
    if len(logs) > MAX_LOGS:
        raise ValueError(f"{folder}: contains {len(logs)} logs; pass the paths of some of them")
    return _read_all(folder, logs)


def _prefer_top(files: Sequence[Path], folder: Path) -> Sequence[Path]:
    """Return the files in the folder itself, or those below if it has none."""
    return [path for path in files if path.parent == folder] or files


def _read_all(folder: Path, paths: Sequence[Path]) -> list[History]:
    """Read each of the paths, and note at the first history which could not be read.

    Raises:
        ValueError: If none could be read.
    """
    histories: list[History] = []
    errors: list[str] = []
    for path in paths:
        try:
            found = _read_events(path) if path.is_dir() else read_log_file(path)
        except (ValueError, OSError) as error:
            errors.append(str(error))
            continue
        if len(paths) > 1:
            for history in (one for one in found if one.facts.program != "harness"):
                name = _name_in_folder(history.facts.name, path, folder)
                history.facts = replace(history.facts, name=name)
        histories += found
    if not histories and len(paths) == 1:
        raise ValueError(errors[0])
    if not histories:
        more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
        raise ValueError(f"{folder}: contains no log that can be read: {errors[0]}{more}")
    first = histories[0]
    first.facts = replace(first.facts, notes=tuple(f"not read: {error}" for error in errors))
    return histories


def _name_in_folder(name: str, path: Path, folder: Path) -> str:
    """Return the path in the folder as the name of a run, and what the name of the run adds to that of the file."""
    rest = name.removeprefix(path.stem if path.is_file() else path.name).strip()
    relative = path.relative_to(folder)
    shown = relative.parent if path.name in TABLE_FILES and relative.parent != Path() else relative
    return f"{shown} {rest}".strip()


def _read_events(path: Path) -> list[History]:
    from harness.importers import tensorboard

    return [tensorboard.read_tensorboard(path)]


def _find_trainer_state(folder: Path) -> Path | None:
    """Return the trainer_state.json of the most steps in the output folder of transformers, or None."""
    states = [folder / "trainer_state.json", *folder.glob("checkpoint-*/trainer_state.json")]
    existing = [state for state in states if state.is_file()]
    return max(existing, key=lambda state: (_read_global_step(state), state.parent == folder), default=None)


def _read_global_step(state: Path) -> int:
    number = re.fullmatch(r"checkpoint-(\d+)", state.parent.name)
    if number:
        return int(number[1])
    try:
        with open_input(state, 250_000_000, "") as file:
            return int(json.load(file).get("global_step", 0))
    except (ValueError, AttributeError, TypeError, OSError):
        return 0


def _find_wandb_output(folder: Path) -> Path | None:
    """Return the console output in the folder of a W&B run, or of the latest run in the folder `wandb`."""
    for base in (folder, folder / "latest-run", folder / "wandb" / "latest-run"):
        if (base / "files" / "output.log").is_file():
            return base / "files" / "output.log"
    return None


def _iterate_files(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Yield the files in a folder and the folders in it, in the order of their names.

    Raises:
        ValueError: If there are too many.
    """
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    if len(entries) > MAX_ENTRIES:
        raise ValueError(f"{folder}: contains {len(entries):,} files; pass the path of {FILE_FORMATS}")
    yield from (path for path in entries if path.is_file())
    if depth < MAX_DEPTH:
        for path in entries:
            if path.is_dir() and not path.is_symlink():
                yield from _iterate_files(path, depth + 1)


def _may_be_log(path: Path) -> bool:
    return path.suffix.lower() in LOG_SUFFIXES and not OTHER_FILES.match(path.name)
