"""The notice for a run on the user's text that takes the parts of Python's documentation."""

from pathlib import Path

import pytest

from harness.config.compose import compose_config
from harness.run.base_model import announce_training, compose_base_config, describe_foreign_base
from harness.run.runner import run
from tests.conftest import run_main
from tests.run.test_run import read_record, read_series

TEXT = ["data=text", "data.source.path=notes.txt"]


@pytest.mark.parametrize(
    ("overrides", "parts", "command"),
    [
        (TEXT, "the base model and the tokenizer come from", [*TEXT, "tokenizer=bpe", "lora=none", "start=scratch"]),
        ([*TEXT, "lora.rank=4", "seed=2"], "the base model and the tokenizer come from",
         [*TEXT, "seed=2", "tokenizer=bpe", "lora=none", "start=scratch"]),
        ([*TEXT, "tokenizer=bpe"], "the base model comes from", [*TEXT, "tokenizer=bpe", "lora=none", "start=scratch"]),
        ([*TEXT, "lora=none", "start=scratch"], "the tokenizer comes from",
         [*TEXT, "lora=none", "start=scratch", "tokenizer=bpe"]),
    ],
)  # fmt: skip
def test_own_text_with_parts_of_python_docs_shows_the_command(overrides, parts, command) -> None:
    [notice] = describe_foreign_base(compose_config(overrides), overrides)
    first, line = notice.split("\n")
    assert first.startswith(parts)
    assert "set model=hf model.name=FOLDER" in first
    assert line.strip().endswith(" ".join(command))
    assert describe_foreign_base(compose_config(command), command) == []


@pytest.mark.parametrize(
    "overrides",
    [[], ["data=pydoc_text"], ["experiment=operator"], ["data=text", "data.source.path=x", "model=hf", "model.name=x"],
     ["experiment=pydoc_base"], ["experiment=smoke"], ["~tokenizer"], ["~data"], ["data.source=5"], ["~start"]],
)  # fmt: skip
def test_other_runs_have_no_such_notice(overrides: list[str]) -> None:
    assert describe_foreign_base(compose_config(overrides), overrides) == []


@pytest.mark.parametrize("overrides", [TEXT, []])
def test_user_learns_before_the_base_is_trained_that_it_ignores_the_text(overrides, capsys) -> None:
    cfg = compose_config(overrides)
    announce_training(compose_base_config("pydoc_base", cfg), cfg)
    said = capsys.readouterr().err
    assert "training the base model of 400 steps first" in said
    assert ("stop and add tokenizer=bpe lora=none start=scratch" in " ".join(said.split())) == (overrides == TEXT)


def test_run_shows_the_notice_and_records_the_digests_of_splits_it_does_not_read(
    places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {split: tmp_path / f"{split}.txt" for split in ("train", "validation", "test")}
    for number, path in enumerate(files.values()):
        path.write_text(" ".join(f"{number} says {word} and {word * 3}." for word in range(400)))
    overrides = ["data=text", f"data.source.path={files['train']}", f"data.validation={files['validation']}"]
    overrides += ["lora=none", "start=scratch", "model.layers=1", "model.width=16", "model.heads=2", "device=cpu"]
    overrides += ["loop.max_steps=3", "loop.evals=1", "batch.batch_size=4", "data.sequence_length=32"]
    overrides += ["observers=metrics_only", *places]
    with_test = [*overrides, f"data.test={files['test']}"]
    assert run_main(monkeypatch, *with_test) == 0
    [folder] = (tmp_path / "outputs").iterdir()
    start, *lines = read_record(folder)
    digests = [start["tags"][f"data.digest.{split}"] for split in files]
    assert len(set(digests)) == 3
    assert any("the tokenizer comes from Python's documentation" in str(line) for line in lines)
    without_test = run(compose_config(overrides))
    for name in ("val/loss", "train/loss"):
        assert read_series(folder, name) == read_series(without_test.folder, name)
