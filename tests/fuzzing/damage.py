"""Damage a file of a run or a sweep, and the commands that read it afterwards."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import yaml

from harness.cli import COMMANDS
from tests.fuzzing.line import RANGE, FuzzLine, tiny_overrides

WRONG_VALUES = [None, "", -1, 0, 1.5, True, [1, 2], {"a": 1}, "text", "1", [], {}, float("nan"), 10**30]
GARBAGE = b"\x00\xff\xfe{not: [json\x80" * 9
JSON_TEXTS = ["[]", "null", "3", '"text"', "{}", "[1, 2]", "true", '{"a": 1}', "[[]]", "NaN"]


def _remove(path: Path, rng: random.Random) -> None:
    path.unlink()


def _truncate(path: Path, rng: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: rng.randrange(max(1, len(content)))])


def _flip_byte(path: Path, rng: random.Random) -> None:
    content = bytearray(path.read_bytes()) or bytearray(b"x")
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    path.write_bytes(content)


def _replace_by_folder(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.mkdir()
    if rng.random() < 0.5:
        (path / "file").write_text("text")


def _replace_by_link(path: Path, rng: random.Random) -> None:
    path.unlink()
    path.symlink_to(rng.choice(["nowhere", path.name]))  # a loop the second time


def _write_other_json(path: Path, rng: random.Random) -> None:
    path.write_text(rng.choice(JSON_TEXTS))


def _change_value(path: Path, rng: random.Random) -> None:
    """Remove, retype or add one entry of a JSON or YAML file, or of one line of JSONL."""
    text = path.read_text(errors="replace")
    if path.suffix in (".jsonl", ".journal"):
        lines = text.splitlines()
        place = rng.choice([0, rng.randrange(len(lines))])
        lines[place] = json.dumps(_mutate(json.loads(lines[place]), rng))
        path.write_text("\n".join(lines) + "\n")
    elif path.suffix in (".yaml", ".json"):
        is_yaml = path.suffix == ".yaml"
        content = _mutate(yaml.safe_load(text) if is_yaml else json.loads(text), rng)
        path.write_text(yaml.safe_dump(content) if is_yaml else json.dumps(content))
    else:
        _flip_byte(path, rng)


def _mutate(node: Any, rng: random.Random) -> Any:
    """Return `node` with one of its entries, at any depth, removed or given another value."""
    keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
    if not keys:
        return rng.choice(WRONG_VALUES)
    key = rng.choice(keys)
    if isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7:
        node[key] = _mutate(node[key], rng)
    elif rng.random() < 0.4:
        del node[key]
    else:
        node[key] = rng.choice(WRONG_VALUES)
    return node


def _break_line(path: Path, rng: random.Random) -> None:
    """Insert a line that does not belong into a text file, or bytes into any other."""
    lines = path.read_bytes().split(b"\n")
    lines.insert(rng.choice([0, rng.randrange(len(lines) + 1)]), rng.choice([GARBAGE, b"", b"{}", b"[]", b"3", b"{"]))
    path.write_bytes(b"\n".join(lines))


DAMAGES: dict[str, Callable[[Path, random.Random], None]] = {
    "removed": _remove,
    "emptied": lambda path, rng: path.write_bytes(b""),
    "truncated": _truncate,
    "garbage": lambda path, rng: path.write_bytes(GARBAGE),
    "a byte flipped": _flip_byte,
    "replaced by a folder": _replace_by_folder,
    "replaced by a broken link": _replace_by_link,
    "other JSON": _write_other_json,
    "a value changed": _change_value,
    "a line broken": _break_line,
}
RUN_FILES = [
    "config.yaml", "metrics.jsonl", "mlflow.json", "checkpoints", "checkpoints/best", "checkpoints/tokenizer",
    "checkpoints/best/checkpoint.json", "checkpoints/best/model.safetensors", "checkpoints/best/state.pt", "blimp.json",
    "checkpoints/step-00000002/checkpoint.json", "checkpoints/step-00000002/model.safetensors",
    "checkpoints/step-00000002/state.pt", "checkpoints/tokenizer/tokenizer.json",
    "checkpoints/tokenizer/tokenizer_config.json", "command.txt",
]  # fmt: skip
SWEEP_FILES = ["study.journal", "sweep.json", "summary.json", "sweep.yaml", "mlflow.json", "0/config.yaml",
               "0/metrics.jsonl", "0/mlflow.json", "0", "optimization_results.yaml", "study.lock"]  # fmt: skip
LOGS = ["trainer_state.json", "log.csv", "log.txt", "log.jsonl", "events/events.out.tfevents.1"]
MADE_FROM_INPUTS = {
    "text.txt": "text", "qa.md": "qa_markdown", "rows.jsonl": "jsonl", "titles.csv": "headlines",
    "fields.pt": "pde_files",
}  # fmt: skip
SWEEP_OVERRIDES = (
    "sweeps=none", RANGE, "sweep.n_trials=2", "sweep.n_jobs=1", "sweep.study=sweep", "pruner=none", "preflight=skip",
)  # fmt: skip


def damage_file(path: Path, kind: str, seed: str) -> None:
    """Damage a file, or a file below a folder, in the way that `kind` names."""
    rng = random.Random(seed)
    if path.is_dir() and kind in ("removed", "replaced by a broken link", "replaced by a folder"):
        shutil.rmtree(path)
        path.touch()
    elif path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and not file.is_symlink())
        path = rng.choice(files)
    if path.is_file():
        links = os.stat(path).st_nlink
        if links > 1:  # a checkpoint that is also the best one: damage one of them only
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)
        DAMAGES[kind](path, rng)


def make_damage_line(rng: random.Random, kind: str) -> FuzzLine:
    """Return a command on a run, a sweep, a log or a data file that was damaged in the way that `kind` names."""
    place = rng.choice(["run", "run", "run", "sweep", "sweep", "inputs", "logs"])
    if place == "run":
        file, command = f"outputs/run/{rng.choice(RUN_FILES)}", rng.choice(_run_commands(rng))
    elif place == "sweep":
        file, command = f"outputs/sweeps/sweep/{rng.choice(SWEEP_FILES)}", rng.choice(_sweep_commands(rng))
    elif place == "inputs":
        name = rng.choice(sorted(MADE_FROM_INPUTS))
        overrides = tiny_overrides({"data": MADE_FROM_INPUTS[name]})
        is_run = name == "fields.pt" or rng.random() < 0.6
        command = ["run", *overrides] if is_run else ["clean", *overrides, "--to", "out"]
        file = f"inputs/{name}"
    else:
        name = rng.choice([*LOGS, "pairs.jsonl"])
        file = f"inputs/{name}"
        command = ["diagnose", file] if name != "pairs.jsonl" else ["blimp", "outputs/run", "--data", file]
    names = (file, Path(file).name, place, "start.run", "start.source", "RUN")
    return FuzzLine("folders", kind, tuple(command), names, (file, kind))


def _run_commands(rng: random.Random) -> Sequence[list[str]]:
    resume = ["start=resume", "start.run=outputs/run", "loop.max_steps=3"]
    base = [word for word in tiny_overrides({}) if not word.startswith("start=") and word != "loop.max_steps=1"]
    warm = ["start=warm", "start.source=outputs/run", "loop.max_steps=1"]
    best = [f"start.checkpoint={rng.choice(['best', '2', '1'])}", "start.restart_schedule=true"]
    return [
        ["sync", "outputs/run"],
        ["sample", "outputs/run", "hello", "--tokens", "2"],
        ["diagnose", "outputs/run"],
        ["diagnose", "outputs/run", "outputs/sweeps/sweep/0"],
        ["prescribe", "outputs/run"],
        ["export", "outputs/run", "--output", "out"],
        ["blimp", "outputs/run", "--data", "inputs/pairs.jsonl"],
        ["run", *base, *resume],
        ["run", *base, *resume, *best],
        ["run", *base, *warm],
        ["preflight", *base, *warm, "--only", "cost"],
    ]


def _sweep_commands(rng: random.Random) -> Sequence[list[str]]:
    again = ["run", "-m", *tiny_overrides({}), *SWEEP_OVERRIDES]
    commands = [
        again,
        [*again, "sweep.n_trials=3"],
        ["sync", "outputs/sweeps/sweep"],
        ["diagnose", "outputs/sweeps/sweep"],
        ["diagnose", "outputs/sweeps/sweep/0"],
        ["prescribe", "outputs/sweeps/sweep/0"],
        ["sample", "outputs/sweeps/sweep/0", "hello", "--tokens", "2"],
    ]
    return [*commands, *([["repair", "outputs/sweeps/sweep"]] * 2 if "repair" in COMMANDS else [])]
