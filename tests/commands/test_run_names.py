"""Every command that takes a run takes all of its names, and says the same of a wrong one."""

import json
import re
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.record.metrics_file import write_json
from tests.record.run_folders import write_study

RUN_ID = "0123456789abcdef" * 2


@pytest.fixture
def outputs(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one real run, which is also the best trial of a study; the current folder is another one."""
    folder = tmp_path / "outputs"
    run = folder / "2026-01-02_03-04-05_mine"
    shutil.copytree(finished, run)
    write_json(run / "mlflow.json", {"uri": f"sqlite:///{tmp_path}/mlflow.db", "experiment": "x", "run_id": RUN_ID})
    study = write_study(folder / "sweeps" / "default", tags={"best_trial": "3"})
    (study / "3").symlink_to(run)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return folder


COMMANDS = {
    "sample": ["sample", "NAME", "x", "--tokens", "1"],
    "prescribe": ["prescribe", "NAME"],
    "diagnose": ["diagnose", "NAME"],
    "export": ["export", "NAME", "--output", "exported"],
    "sync": ["sync", "NAME"],
    "blimp": ["blimp", "NAME", "--data", "pairs.jsonl"],
    "rescue": ["rescue", "NAME"],
}


@pytest.mark.parametrize("name", ["last", "mine", "mi", "2026-01-02", RUN_ID, "0123", "default/best", "default/3"])
def test_diagnose_takes_every_name(name, outputs, capsys) -> None:
    assert cli.main(["diagnose", name, "--output-dir", str(outputs)]) == 0
    assert "completed · step 12 of 12" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["sample", "prescribe", pytest.param("export", marks=pytest.mark.slow)])
def test_commands_take_the_name_of_a_run(command, outputs, capsys) -> None:
    words = [word.replace("NAME", "default/best") for word in COMMANDS[command]]
    assert cli.main([*words, "--output-dir", str(outputs)]) == 0, capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_the_runs_that_a_name_stands_for(command, outputs, capsys) -> None:
    shutil.copytree(outputs / "2026-01-02_03-04-05_mine", outputs / "2026-02-02_03-04-05_mine")
    names = ("sentence_good", "sentence_bad", "UID", "linguistics_term", "field")
    Path("pairs.jsonl").write_text(json.dumps({name: name for name in names}) + "\n")
    words = [word.replace("NAME", "min") for word in COMMANDS[command]]
    assert cli.main([*words, "--output-dir", str(outputs)]) == 2
    message, *lines = capsys.readouterr().err.splitlines()
    assert re.search(r"'?min'?:? stands for 2 runs", message)
    assert lines == ["  2026-02-02_03-04-05_mine", "  2026-01-02_03-04-05_mine"]


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "blimp"])
def test_commands_name_the_nearest_run(command, outputs, capsys) -> None:
    words = [word.replace("NAME", "mien") for word in COMMANDS[command]]
    assert cli.main([*words, "--output-dir", str(outputs)]) == 2
    assert "did you mean 'mine'? `plateau list` shows all" in capsys.readouterr().err


def test_sync_takes_a_study(outputs, capsys) -> None:
    write_study(outputs / "sweeps" / "other")
    (outputs / "sweeps" / "other" / "sweep.json").write_text("{")
    assert cli.main(["sync", "other", "--output-dir", str(outputs)]) == 2
    assert f"{outputs}/sweeps/other" in capsys.readouterr().err  # found, and damaged


@pytest.mark.parametrize("command", [["export", "fields"], ["sample", "fields", "prompt"]])
def test_run_without_tokenizer_names_its_weights(outputs: Path, capsys, command: list[str]) -> None:
    folder = outputs / "2026-01-02_03-04-06_fields"
    (folder / "checkpoints/best").mkdir(parents=True)
    for name in ("config.yaml", "metrics.jsonl", "checkpoints/best/model.safetensors"):
        (folder / name).touch()
    assert cli.main([*command, "--output-dir", str(outputs)]) == 2
    where = f"its weights are in {folder / 'checkpoints/best/model.safetensors'}"
    assert f"is not a run of a language model, or lost it; {where}" in capsys.readouterr().err
