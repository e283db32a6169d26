"""A flipped bit in any file that a run, a cache or an export consists of is repaired, refused by name, or harmless.

`pytest tests/run/test_bit_flips.py -s` prints what happened to each.
"""

import hashlib
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness import cli
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.core.events import Event, StepEnd
from harness.data.darcy import build_darcy_data
from harness.record.metrics_file import read_entries
from harness.run.base_model import get_base_weights
from harness.run.result import RunResult
from harness.run.runner import run
from harness.training.checkpoint import load_weights, read_state_dict
from harness.training.policies import Decision, Stop
from tests.toy_task import CPU

WORDS = ("the", "cat", "sat", "on", "a", "mat", "and", "dog", "lay", "by", "door")
PAIR = '{"sentence_good": "a cat sits", "sentence_bad": "a cat sit", "UID": "u", "linguistics_term": "t", "field": "f"}'


@dataclass(frozen=True)
class Reader:
    """Something that reads the files: `read` returns its result and what it said."""

    name: str
    read: Callable[[Path], tuple[str, str]]


def describe_training(folder: Path) -> list[str]:
    """Return the overrides of a run of 4 steps, evaluated at each."""
    model = ["model.layers=1", "model.width=16", "model.dropout=0.1"]
    data = ["data=text", f"data.source.path={folder}/own.txt", "data.sequence_length=32", "tokenizer.vocab_size=270"]
    quiet = ["device=cpu", "observers=metrics_only", f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"]
    length = ["loop.max_steps=4", "loop.evals=4", "batch.batch_size=4", "data.source.split_on='\\n'"]
    return ["experiment=smoke", *model, *data, *quiet, *length]


def train_run(folder: Path, *overrides: str) -> RunResult:
    return run(compose_config([*describe_training(folder), *overrides]))


def stop_after_three(event: Event) -> Decision:
    return Stop("interrupted", "") if isinstance(event, StepEnd) and event.step == 3 else None


def read_file_weights(folder: Path) -> tuple[str, str]:
    try:
        weights = read_state_dict(folder / "exported" / "model.safetensors")
    except ValueError as error:
        return "refused", str(error)
    return str({name: tensor.double().sum().item() for name, tensor in weights.items()}), ""


def train(folder: Path, *overrides: str) -> tuple[str, str]:
    """Return the digest of the best weights, or the refusal, and the notices."""
    try:
        result = train_run(folder, *overrides)
    except ConfigError as error:
        return "refused", str(error)
    lines = [entry["text"] for entry, _ in read_entries(result.folder / "metrics.jsonl") if entry["kind"] == "notice"]
    weights = load_weights(result.folder / "checkpoints" / "best" / "model.safetensors")
    digest = hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()
    return f"{result.status} {result.best_val_loss} {digest}", "\n".join(lines)


def command(*arguments: str) -> Callable[[Path], tuple[str, str]]:
    """Return a reader that runs a command and returns its exit status; its output is captured by pytest."""

    def read(folder: Path) -> tuple[str, str]:
        status = cli.main([argument.format(folder=folder) for argument in arguments])
        return "refused" if status == 2 else str(status), ""

    return read


def load_base(folder: Path) -> tuple[str, str]:
    """Return the sum of the weights of a base model, which is trained unless it is cached."""
    weights = get_base_weights(
        compose_config([*describe_training(folder), "start=scratch"]), folder / "cache", CPU,
        lambda: train_run(folder).folder / "checkpoints" / "best" / "model.safetensors",
    )  # fmt: skip
    return str({name: tensor.double().sum().item() for name, tensor in weights.items()}), ""


def solve_darcy(folder: Path) -> tuple[str, str]:
    sizes = {"train": 2, "held_out": 1, "resolution": 8, "finer": 16}
    data = build_darcy_data(**sizes, eval_batch_size=1, shuffle=True, seed=0, cache_dir=folder / "cache" / "fields")
    return str([data.train.y.sum().item(), data.held_out[0].x.sum().item()]), ""


TRAIN = Reader("train", train)
BASE = Reader("train", load_base)
RESUME = Reader("resume", lambda folder: train(folder, "start=resume", f"start.run={folder}/run"))
WARM = Reader("warm start", lambda folder: train(folder, "start=warm", f"start.source={folder}/run"))
WEIGHTS = Reader("weights", read_file_weights)
WARM_FILE = Reader(
    "warm start",
    lambda folder: train(
        folder, "start=warm", f"start.source={folder}/run/checkpoints/step-00000002/model.safetensors"
    ),
)
SAMPLE = Reader("sample", command("sample", "{folder}/run", "the cat", "--tokens", "4", "--temperature", "0"))
EXPORT = Reader("export", command("export", "{folder}/run", "--output", "{folder}/again"))
BLIMP = Reader("blimp", command("blimp", "{folder}/run", "--data", "{folder}/pairs.jsonl"))
BLIMP_EXPORT = Reader("blimp", command("blimp", "{folder}/exported", "--data", "{folder}/pairs.jsonl"))
DIAGNOSE = Reader("diagnose", command("diagnose", "{folder}/run"))
DARCY = Reader("Darcy", solve_darcy)
FILES = {
    "cache/data/*/train.npy": [TRAIN],
    "cache/data/*/val.npy": [TRAIN],
    "cache/data/*/val_ends.npy": [TRAIN],
    "cache/data/*/meta.json": [TRAIN],
    "cache/data/*/harness-files.json": [TRAIN],
    "cache/data/*/tokenizer/tokenizer.json": [TRAIN],
    "cache/tokenizers/*/tokenizer.json": [TRAIN],
    "cache/bases/*/model.safetensors": [BASE],
    "cache/bases/*/harness-files.json": [BASE],
    "cache/fields/data/*/train.pt": [DARCY],
    "run/checkpoints/best/model.safetensors": [SAMPLE, WARM, EXPORT, BLIMP],
    "run/checkpoints/best/checkpoint.json": [SAMPLE],
    "run/checkpoints/best/state.pt": [SAMPLE],
    "run/checkpoints/step-00000003/model.safetensors": [RESUME],
    "run/checkpoints/step-00000003/state.pt": [RESUME],
    "run/checkpoints/step-00000003/checkpoint.json": [RESUME],
    "run/checkpoints/tokenizer/tokenizer.json": [SAMPLE, EXPORT],
    "run/checkpoints/tokenizer/harness.json": [BLIMP],
    "run/checkpoints/tokenizer/harness-files.json": [SAMPLE],
    "run/config.yaml": [SAMPLE, WARM],
    "run/metrics.jsonl": [DIAGNOSE, RESUME],
    "run/checkpoints/step-00000002/model.safetensors": [WARM_FILE],
    "exported/model.safetensors": [WEIGHTS, BLIMP_EXPORT],
    "exported/config.json": [BLIMP_EXPORT],
    "exported/tokenizer.json": [BLIMP_EXPORT],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the cache, a base model, a run with adapters, and the run's export."""
    folder = tmp_path_factory.mktemp("flips")
    choose = random.Random(0)
    lines = [" ".join(choose.choices(WORDS, k=12)) for _ in range(80)]
    (folder / "own.txt").write_text("\n".join(lines))
    (folder / "pairs.jsonl").write_text(PAIR + "\n")
    run(compose_config(describe_training(folder)), [stop_after_three], folder=folder / "run")
    load_base(folder)
    solve_darcy(folder)
    assert cli.main(["export", str(folder / "run"), "--output", str(folder / "exported")]) == 0
    return folder


def flip_bit(path: Path, choose: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[choose.randrange(len(content))] ^= 1 << choose.randrange(8)
    path.unlink()  # not under the maps and hard links of others
    path.write_bytes(content)


def judge_flip(path: Path, before: tuple[str, str], after: tuple[str, str], said: str, kept: str) -> str:
    """Return what a flipped bit led to: rebuilt, an older checkpoint, refused, harmless, or "USED"."""
    names_file = path.name in said and "Traceback" not in said
    if after[0] == "refused":
        return "refused by name" if names_file else "USED: refused without its name"
    if after[0] != before[0]:
        return "USED"
    if names_file and "rebuilding" in said:
        return "rebuilt"
    if names_file and "skipped a damaged checkpoint" in said:
        return "an older checkpoint"
    return "harmless" if kept else "USED: other output"


@pytest.fixture(scope="module")
def expected() -> dict[Reader, tuple[tuple[str, str], str]]:
    """Results and output of the readers on undamaged files, filled as they are needed."""
    return {}


SLOW_SEEDS = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 11)]


@pytest.mark.parametrize("seed", [0, *SLOW_SEEDS])
@pytest.mark.parametrize("pattern", FILES)
def test_no_flipped_bit_is_used(
    folder: Path, expected: dict, pattern: str, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    choose, verdicts = random.Random(f"{pattern} {seed}"), []

    def read_with(reader: Reader) -> tuple[tuple[str, str], str, str]:
        shutil.rmtree(folder / "again", ignore_errors=True)
        capsys.readouterr()
        outcome = reader.read(folder)
        output = capsys.readouterr()
        return outcome, output.out, output.err

    (path,) = folder.glob(pattern)
    whole = path.read_bytes()
    for reader in FILES[pattern]:
        if reader not in expected:
            before, printed, said = read_with(reader)
            assert before[0] != "refused", (reader.name, before, said)
            expected[reader] = before, printed
        flip_bit(path, choose)
        if "tokenizers" in pattern:  # read only where the data are tokenized
            shutil.rmtree(folder / "cache" / "data")
        after, printed, errors = read_with(reader)
        before, printed_before = expected[reader]
        verdict = judge_flip(path, before, after, errors + after[1], printed == printed_before)
        if verdict == "rebuilt":
            (path,) = folder.glob(pattern)
            assert "bases" in pattern or path.read_bytes() == whole  # metadata of safetensors have no fixed order
        if "bases" not in pattern:
            path.write_bytes(whole)
        verdicts.append(verdict)
        with capsys.disabled():
            print(f"\n{pattern:<50} {reader.name:<12} {verdict}", end="")
    assert not [verdict for verdict in verdicts if "USED" in verdict]
