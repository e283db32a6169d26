"""Every command of docs/recipes.md does what the page says, with files of our own making and a few steps."""

import os
import random
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from harness import cli
from tests.conftest import ROOT, run_main
from tests.data.documents import WORDS
from tests.test_documented_commands import iter_commands

PAGE = ROOT / "docs" / "recipes.md"
NEEDS_PACKAGE = "model=smollm2"
OWN_DATA, *OTHER_PROGRAMS = re.split(r"^(?=## Sweep my )", PAGE.read_text(), flags=re.MULTILINE)
COMMANDS = [command for command in iter_commands(OWN_DATA) if NEEDS_PACKAGE not in command]
SHORT = ["loop.max_steps=3", "loop.evals=1", "batch.batch_size=4", "device=cpu"]
SMALL = {
    "tokenizer=bpe": ["tokenizer.vocab_size=300", "data.sequence_length=32", "model.layers=1", "model.width=16"],
    "model=hf": ["data.sequence_length=32"],
    "experiment=operator": ["model.width=4", "model.layers=1", "model.modes=4"],
    "-m": ["sweep.n_trials=2", "sweep.n_jobs=1", "preflight=skip"],
}
"""Overrides that make a command small, by a word in it."""


@pytest.fixture(scope="module")
def own_files(tmp_path_factory: pytest.TempPathFactory, cache_dir: Path) -> Path:
    """Return a folder with the files that the page names."""
    folder = tmp_path_factory.mktemp("recipes")
    chance = random.Random(0)
    (folder / "notes").mkdir()
    for number, name in enumerate(("notes/a.txt", "notes/b.md", "val.txt", "test.txt")):
        (folder / name).write_text(f"{number} " + " ".join(chance.choices(WORDS, k=1500)))
    for name in ("qa.md", "qa_val.md", "qa_test.md"):
        pairs = [(chance.choices(WORDS, k=3), chance.choices(WORDS, k=5)) for _ in range(40)]
        (folder / name).write_text("".join(f"QUESTION: {' '.join(q)}?\nANSWER: {' '.join(a)}.\n\n" for q, a in pairs))
    (folder / "titles.csv").write_text(
        "\n".join(["id,title", *(f"{n},{' '.join(chance.choices(WORDS, k=7))}" for n in range(300))])
    )
    write_fields(folder)
    write_model(folder / "my_model", cache_dir)
    return folder


def write_fields(folder: Path) -> None:
    draws = np.random.default_rng(0)
    x = draws.random((20, 12, 16)).astype(np.float32)
    for number, name in enumerate(("train", "val", "test")):
        torch.save({"x": torch.tensor(x + number), "y": torch.tensor(x**2 + number)}, folder / f"{name}.pt")
    np.savez(folder / "fields.npz", coeff=x[..., 0], sol=x[..., 1])
    np.save(folder / "a.npy", x)
    np.save(folder / "u.npy", x**2)
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "fields.h5", "w") as file:
        file["x"], file["y"] = np.stack([x, x**2, x**3], -1), x[..., None]


def write_model(folder: Path, cache_dir: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    from harness.data.sources import Document
    from harness.data.tokenizers import ByteLevelBPE

    tokenizer = ByteLevelBPE(300).build([Document(" ".join(WORDS))], [], cache_dir / "tokenizers" / "recipes")
    GPT2LMHeadModel(GPT2Config(vocab_size=300, n_positions=64, n_embd=16, n_layer=1, n_head=2)).save_pretrained(folder)
    for file in tokenizer.folder.iterdir():
        if "token" in file.name:
            shutil.copy(file, folder / file.name)


def shorten(words: list[str], folder: Path, cache_dir: Path) -> list[str]:
    """Return the overrides of a command with those that make it small and keep it in `folder`."""
    places = [f"output_dir={folder}/outputs", f"cache_dir={cache_dir}", f"tracking.uri=sqlite:///{folder}/mlflow.db"]
    small = [override for word, overrides in SMALL.items() if word in words for override in overrides]
    if "model=hf" in words and "-m" in words:
        small.append("lora.rank=2,4")
    return [*words, *(override for override in small if override.partition("=")[0] not in str(words)), *SHORT, *places]


@pytest.mark.slow
def test_every_recipe_works(
    own_files: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own_files)
    runs = [command for command in COMMANDS if "run.py" in command]
    assert len(runs) == 11
    for command in runs:
        words = shlex.split(command)
        status = run_main(monkeypatch, *shorten(words[words.index("run.py") + 1 :], own_files, cache_dir))
        output, errors = capsys.readouterr()
        assert status == 0, (command, output, errors)
        assert "Python's documentation" not in output, command
        assert " failed" not in output, (command, output)
    for command in COMMANDS:
        if command.startswith("plateau"):
            assert cli.main([*shlex.split(command)[1:], "--output-dir", f"{own_files}/outputs"]) == 0, command
    study = own_files / "outputs" / "sweeps" / "mine"
    [exported] = study.glob("*/exported")
    check_exported(exported)
    check_journal(study / "study.journal")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", OTHER_PROGRAMS)
def test_recipe_for_another_program_works(recipe: str, tmp_path: Path) -> None:
    for name, text in re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", recipe, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(text)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    outputs = [
        subprocess.run(command, shell=True, cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
                       capture_output=True, text=True, check=True).stdout
        for command in iter_commands(recipe)
    ]  # fmt: skip
    assert "(of 8 requested)" in outputs[0]
    assert "resumed: " in outputs[1]
    assert "(of 12 requested)" in outputs[1]
    assert "failed" not in "".join(outputs)
    assert "of another program" in outputs[-1]
    records = [path for path in tmp_path.rglob("trial_record.jsonl") if "artifacts" not in path.parts]
    assert len(records) == (16 if "large" in recipe else 12)


def check_exported(folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("QUESTION: bari?", return_tensors="pt").input_ids
    assert AutoModelForCausalLM.from_pretrained(folder)(input_ids=ids).logits.isfinite().all()


def check_journal(path: Path) -> None:
    """Open the study as the last line of the page does, with the storage that Optuna's dashboard uses."""
    assert f"optuna-dashboard {path.relative_to(path.parents[3])}\n" in PAGE.read_text()
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    [name] = re.findall(r'load_study\(study_name="(\w+)"', PAGE.read_text())
    assert len(optuna.load_study(study_name=name, storage=JournalStorage(JournalFileBackend(str(path)))).trials) == 2
