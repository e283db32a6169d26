"""Run fuzzed lines in a folder of their own, with a finished run and sweep in it, and judge what they do."""

import io
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from hydra._internal.core_plugins.file_config_source import FileConfigSource

from harness import cli
from harness.commands import run
from harness.core import paths
from harness.sweep import sweeper
from harness.sweep.programs import make_trial_runner
from harness.sweep.workers import worker, worker_pool
from harness.tracking.upload_process import make_uploader
from tests.conftest import drop_announcements
from tests.fuzzing.damage import DAMAGES, SWEEP_OVERRIDES, damage_file, make_damage_line
from tests.fuzzing.generators import LINE_KINDS, VALUES, make_command_line, make_key_line
from tests.fuzzing.line import FuzzLine, tiny_overrides
from tests.tracking.stores import new_store

GENERATORS: list[tuple[Callable[[random.Random, str], FuzzLine], list[str]]] = [
    (make_key_line, list(VALUES)),
    (make_command_line, list(LINE_KINDS)),
    (make_damage_line, list(DAMAGES)),
]
TURNS = (0, 0, 0, 1, 1, 1, 2, 2, 2, 2)  # generators of ten lines in a row
MAX_DRAWS = 20  # lines of one kind that are tried until one is cheap
HANG_SECONDS = 60
MAX_MESSAGE_LINES = 6  # usage of a command and its error
BUGS = r"\b(?:Type|Attribute|Key|Index|Name|Assertion|UnboundLocal|ZeroDivision|Recursion)Error\b"
LOCKS = (".lock", ".flock")  # stay, since removing a lock that another process waits for is a race
JOURNAL = "outputs/sweeps/sweep/study.journal"
UNWATCHED = (".cache", "mlruns", "mlflow.db", "mlflow.db.lock")  # caches are kept whatever follows


class Hang(BaseException):
    """A line did not end."""


@dataclass(frozen=True)
class Outcome:
    """Exit status and output of a line, what it left behind, and what is wrong with that, by kind."""

    status: object
    output: str
    problems: dict[str, str]


def list_lines(seed: int, count: int, *, cheap: bool = False) -> list[tuple[int, FuzzLine]]:
    """Return `count` lines of a seed with their indices; `cheap` replaces those that take seconds by others like them.

    A line is replaced by the next one of the same generator and kind, so that no kind is lost.
    """
    period = len(TURNS) * math.lcm(*(len(kinds) for _, kinds in GENERATORS))
    found = []
    for first in range(count):
        indices = range(first, first + MAX_DRAWS * period, period)
        lines = ((index, make_line(seed, index)) for index in indices)
        found += list(itertools.islice((pair for pair in lines if not (cheap and pair[1].is_costly)), 1))
    return found


def make_line(seed: int, index: int) -> FuzzLine:
    """Return line `index` of a seed. The kinds of each generator take turns."""
    turn = index % len(TURNS)
    make, kinds = GENERATORS[TURNS[turn]]
    place = index // len(TURNS) * TURNS.count(TURNS[turn]) + TURNS[:turn].count(TURNS[turn])
    return make(random.Random(f"{seed}:{index}"), kinds[place % len(kinds)])


class FuzzSandbox:
    """A folder with inputs, a finished run and a finished sweep, restored after each line."""

    def __init__(self, root: Path) -> None:
        self.folder, self._pristine = root / "sandbox", root / "pristine"
        self.folder.mkdir(parents=True)
        os.chdir(self.folder)
        write_inputs(self.folder / "inputs")
        (self.folder / "mlruns").mkdir()
        new_store(self.folder)
        self._make_run_and_sweep()
        shutil.copytree(self.folder, self._pristine, ignore=shutil.ignore_patterns(*UNWATCHED), symlinks=True)
        self._restore()

    def try_line(self, line: FuzzLine, seed: str) -> Outcome:
        """Run a line in this process and judge it."""
        if line.damage:
            damage_file(self.folder / line.damage[0], line.damage[1], seed)
        before, journal = self._list_files(), self._read_journal()
        status, output, errors = call_command(line.command)
        changed = {name for name, _ in before.items() ^ self._list_files().items()}
        if self._read_journal().startswith(journal):  # opening a study may add a line to its journal
            changed.discard(JOURNAL)
        problems = find_problems(line, status, output, errors)
        if status == 2 and changed:
            problems["left"] = ", ".join(sorted(changed)[:4])
        if changed or line.damage:
            self._restore()
        return Outcome(status, output + errors, problems)

    def _make_run_and_sweep(self) -> None:
        outputs = self.folder / "outputs"
        status, output, errors = call_command(("run", *tiny_overrides({}), "loop.max_steps=2", "loop.evals=2"))
        assert status == 0, output + errors
        [made] = outputs.iterdir()
        made.rename(outputs / "run")
        status, output, errors = call_command(("export", "outputs/run", "--output", "inputs/hf"))
        assert status == 0, output + errors
        status, output, errors = call_command(("run", "-m", *tiny_overrides({}), *SWEEP_OVERRIDES))
        assert status == 0, output + errors
        for folder in (outputs / "run", outputs / "sweeps" / "sweep"):
            make_uploader(folder)()

    def _read_journal(self) -> bytes:
        path = self.folder / JOURNAL
        return path.read_bytes() if path.is_file() else b""

    def _list_files(self) -> dict[str, tuple[int, int, int]]:
        found = {}
        for folder, folders, files in os.walk(self.folder):
            if folder == str(self.folder):
                folders[:] = [name for name in folders if name not in UNWATCHED]
            for name in (*folders, *(name for name in files if not name.endswith(LOCKS))):
                about = os.lstat(os.path.join(folder, name))
                is_file = name in files
                relative = os.path.relpath(os.path.join(folder, name), self.folder)
                found[relative] = (about.st_mode, about.st_size * is_file, about.st_mtime_ns * is_file)
        return found

    def _restore(self) -> None:
        for path in self.folder.iterdir():
            if path.name not in UNWATCHED:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        shutil.copytree(self._pristine, self.folder, dirs_exist_ok=True, symlinks=True)
        os.chdir(self.folder)


@contextmanager
def open_sandbox(root: Path) -> Iterator[FuzzSandbox]:
    """Prepare this process for fuzzed lines: no network, no worker processes, and the sandbox as project folder."""
    before = os.getcwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "is_checkout", lambda: False)  # an installed package works in the current folder
        patch.setattr(worker_pool, "spawn_worker", _run_trials_here)
        patch.setattr(sweeper, "draw_study_figures", lambda study, folder: None)  # takes seconds
        patch.setattr(FileConfigSource, "load_config", _load_config_once)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HOME", str(root / "sandbox"))
        patch.setattr(sys, "stdin", io.StringIO())
        try:
            yield FuzzSandbox(root)
        finally:
            os.chdir(before)


_configs: dict[tuple[str, str], Any] = {}
_load_config = FileConfigSource.load_config


def _load_config_once(source: FileConfigSource, config_path: str) -> Any:
    """Parse each YAML file of the configuration once, which is most of what composing takes."""
    if not source.path.startswith(str(paths.config_dir())):
        return _load_config(source, config_path=config_path)
    key = (source.path, config_path)
    if key not in _configs:
        _configs[key] = _load_config(source, config_path=config_path)
    return deepcopy(_configs[key])


def _run_trials_here(spec: worker.WorkerSpec, index: int) -> subprocess.Popen[str]:
    """Run a worker's trials in this process, which saves its start, and return a process that ends at once."""
    worker.run_trials(spec, make_trial_runner, lambda: False)
    return subprocess.Popen(["true"], stdin=subprocess.PIPE, text=True)


def call_command(command: tuple[str, ...]) -> tuple[object, str, str]:
    """Return exit status, output and errors of `plateau COMMAND`; the status is a traceback if it raises."""
    output, errors = io.StringIO(), io.StringIO()
    handler = signal.signal(signal.SIGALRM, _raise_hang)
    signal.alarm(HANG_SECONDS)
    sys.argv = ["plateau", *command]
    try:
        with redirect_stdout(output), redirect_stderr(errors):
            is_run = command and command[0] == "run"
            status: object = run.main(list(command[1:])) if is_run else cli.main(list(command))
    except SystemExit as ended:
        status = ended.code or 0
    except (Exception, Hang):
        status = traceback.format_exc()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, handler)
    return status, output.getvalue(), errors.getvalue()


def _raise_hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"no end after {HANG_SECONDS} s")


def find_problems(line: FuzzLine, status: object, output: str, errors: str) -> dict[str, str]:
    """Return what is wrong with the status and the messages of a line, by kind."""
    if isinstance(status, str):
        return {"traceback": status}
    if "Traceback" in output + errors:
        return {"traceback": (output + errors)[-3000:]}
    if status not in (0, 1, 2):
        return {"status": f"exit status {status}"}
    if status and not (output + errors).strip():
        return {"message": f"exit status {status} without a message"}
    if status == 1 and re.search(BUGS, output + errors):
        return {"traceback": f"a bug as the reason: {(output + errors)[-1000:]}"}
    if status == 2 and len(drop_announcements(errors).strip().splitlines()) > MAX_MESSAGE_LINES:
        return {"message": f"more than {MAX_MESSAGE_LINES} lines"}
    if status == 2 and line.names and not any(name in errors for name in line.names):
        return {"message": f"names none of {', '.join(line.names)}"}
    return {}


def write_inputs(folder: Path) -> None:
    """Write a small file of each format that a command reads."""
    folder.mkdir()
    rng = random.Random(1)
    words = [["The cat", "A dog", "My aunt", "This tree"], ["sees", "likes", "finds"], ["a house", "the sea", "rain"]]
    lines = [" ".join(rng.choice(choices) for choices in words) for _ in range(300)]
    (folder / "text.txt").write_text(". ".join(lines))
    (folder / "qa.md").write_text("".join(f"QUESTION: what {line}?\nANSWER: {line}.\n\n" for line in lines[:80]))
    (folder / "rows.jsonl").write_text("".join(f'{{"text": "{line}. {line}."}}\n' for line in lines))
    (folder / "titles.csv").write_text("title,year\n" + "".join(f"{line} {line},1\n" for line in lines))
    torch.save({"x": torch.randn(8, 8, 8), "y": torch.randn(8, 8, 8)}, folder / "fields.pt")
    about = {"UID": "a", "linguistics_term": "b", "field": "c"}
    pairs = [{"sentence_good": line, "sentence_bad": f"{line} {line}", **about} for line in lines[:4]]
    (folder / "pairs.jsonl").write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    losses = [(step, 3 - step / 20) for step in range(1, 30)]
    rows = [f'{{"step": {step}, "loss": {loss}, "learning_rate": 0.001}}' for step, loss in losses]
    (folder / "trainer_state.json").write_text(f'{{"log_history": [{", ".join(rows)}], "global_step": 29}}')
    (folder / "log.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "log.csv").write_text("step,loss,lr\n" + "".join(f"{step},{loss},0.001\n" for step, loss in losses))
    (folder / "log.txt").write_text("".join(f"step {step}: train loss {loss}, lr 1e-3\n" for step, loss in losses))
