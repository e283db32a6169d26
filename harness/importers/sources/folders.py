"""Folders: of a run, of a trainer's output, of a tracker, of event files, or of logs of any name."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

from harness.core.input_files import open_input
from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.metric_aliases import SPLIT_WORDS, canonical_name, split_words
from harness.importers.programs.metric_files import read_metric_folder
from harness.importers.sources.log_files import FILE_FORMATS, read_log_file
from harness.record.metrics_file import METRICS_FILE, TRIAL_FILE

TABLE_FILES = ("metrics.csv", "results.csv", "summary.csv", "progress.csv", "history.csv", "trainer_log.jsonl")
"""Names under which Lightning, ultralytics, timm and others save the curves of one run."""
WANDB_OUTPUT = "output.log"  # the console output, in the folder `files` of a run
USUAL_FILES = (*TABLE_FILES, METRICS_FILE, WANDB_OUTPUT)
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
    if (folder / TRIAL_FILE).is_file():
        return _read_trial_folder(folder)
    if (folder / METRICS_FILE).is_file():
        return read_log_file(folder / METRICS_FILE)
    return _read_foreign_folder(folder)


def _read_trial_folder(folder: Path) -> list[History]:
    """Read the record of a trial that another program ran, or that program's own log if it has more curves of losses.

    Raises:
        ValueError: If the record is damaged, or neither has a loss.
    """
    recorded = read_log_file(folder / TRIAL_FILE)
    try:
        [other] = _read_foreign_folder(folder)
    except (ValueError, OSError):  # no log, or several runs
        return recorded
    if _count_losses(other) <= _count_losses(recorded[0]):
        return recorded
    other.facts = _fill_facts(replace(other.facts, name=recorded[0].facts.name, status=None), recorded[0].facts)
    return [other]


def _count_losses(history: History) -> int:
    return sum(len(history[metric]) > 0 for metric in LOSS_METRICS)


def _fill_facts(facts: RunFacts, others: RunFacts) -> RunFacts:
    """Return facts of a run, with what is unknown taken from other facts of the same run."""
    known = {one.name: getattr(others, one.name) for one in fields(RunFacts) if getattr(facts, one.name) is None}
    return replace(facts, **known)


def _read_foreign_folder(folder: Path) -> list[History]:
    """Read the runs in a folder that other programs wrote, but for our record of a trial."""
    if state := find_trainer_state(folder):
        return read_log_file(state)
    if output := _find_wandb_output(folder):
        return _read_all(folder, [output])
    if (folder / "metrics").is_dir() and (folder / "meta.yaml").is_file():
        return read_metric_folder(folder)
    files = [path for path in _iterate_files(folder) if path.name != TRIAL_FILE]
    tables = _prefer_top([path for path in files if path.name in (*TABLE_FILES, METRICS_FILE)], folder)
    runs = _group_event_folders({path.parent for path in files if "tfevents" in path.name})
    event_folders = [folder] if folder in runs else sorted(runs.keys() - {path.parent for path in tables})
    if folder in {path.parent for path in tables}:
        event_folders = []
    logs = [*tables, *event_folders] or _prefer_top([path for path in files if _may_be_log(path)], folder)
    if not logs:
        raise ValueError(f"{folder}: contains no log; pass the path of {FILE_FORMATS}")
    if len(logs) > MAX_LOGS:
        raise ValueError(f"{folder}: contains {len(logs)} logs; pass the paths of some of them")
    return _read_all(folder, logs, runs)


def _group_event_folders(folders: Iterable[Path]) -> dict[Path, list[Path]]:
    """Return the folders of event files of each run by its own folder; those of a split are below that."""
    runs: dict[Path, list[Path]] = {}
    for folder in sorted(folders):
        is_part = folder.name.lower() in SPLIT_WORDS or canonical_name(folder.name) in LOSS_METRICS
        runs.setdefault(folder.parent if is_part else folder, []).extend([folder] if is_part else [])
    return runs


def _prefer_top(files: Sequence[Path], folder: Path) -> Sequence[Path]:
    """Return the files in the folder itself, or those below if it has none."""
    return [path for path in files if path.parent == folder] or files


def _read_all(folder: Path, paths: Sequence[Path], event_runs: Mapping[Path, Sequence[Path]] = {}) -> list[History]:
    """Read each of the paths, and note at the first history which could not be read.

    Raises:
        ValueError: If none could be read.
    """
    found: list[tuple[Path, list[History]]] = []
    errors: list[str] = []
    for path in paths:
        try:
            found.append((path, _read_events(path, event_runs.get(path, ())) if path.is_dir() else read_log_file(path)))
        except (ValueError, OSError) as error:
            errors.append(str(error))
    if not found and len(paths) == 1:
        raise ValueError(errors[0])
    if not found:
        more = f" (and {len(errors) - 1} more files)" if len(errors) > 1 else ""
        raise ValueError(f"{folder}: contains no log that can be read: {errors[0]}{more}")
    for path, histories in found:
        for history in histories:
            history.facts = replace(history.facts, name=_name_run(history.facts, path, folder, len(found) > 1))
    first = found[0][1][0]
    first.facts = replace(first.facts, notes=(*first.facts.notes, *(f"not read: {error}" for error in errors)))
    return [history for _, histories in found for history in histories]


def _name_run(facts: RunFacts, path: Path, folder: Path, is_one_of_many: bool) -> str:
    """Return the name of a run: that of its folder if the file has a usual name, else that of the file.

    In a folder of many logs it is the path in the folder. A run of ours has a name.
    """
    if facts.program == "harness" or (path.is_dir() and not is_one_of_many):
        return facts.name
    rest = facts.name.removeprefix(path.stem if path.is_file() else path.name).strip()
    relative = path.relative_to(folder)
    shown: Path | str = relative if is_one_of_many else path.stem
    if path.name in USUAL_FILES:
        inside = relative.parent if relative.parent != Path() else relative
        own = folder if path.name == WANDB_OUTPUT else path.parent
        shown = inside if is_one_of_many else own.absolute().name
    return f"{shown} {rest}".strip()


def _read_events(path: Path, parts: Sequence[Path]) -> list[History]:
    from harness.importers.programs import tensorboard

    return [tensorboard.read_tensorboard(path, parts)]


def find_trainer_state(folder: Path) -> Path | None:
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
        if (base / "files" / WANDB_OUTPUT).is_file():
            return base / "files" / WANDB_OUTPUT
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
