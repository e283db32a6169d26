"""plateau list: tables that fit the terminal, and JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from harness import cli
from tests.conftest import ROOT
from tests.record.run_folders import write_run, write_study


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    folder = tmp_path / "outputs"
    write_run(folder / "2026-01-02_03-04-05_mine", [3.0, 1.5])
    name = "a-name-that-is-far-too-long-for-a-terminal-of-eighty-columns"
    write_run(folder / f"2026-02-02_03-04-05_{name}", [1.0], status="interrupted", overrides=["model=ltg_bert_small"])
    counts = {"completed": 20, "pruned": 4, "diverged": 1, "interrupted": 2}
    metrics = {f"sweep/trials.{status}": count for status, count in counts.items()}
    write_study(folder / "sweeps" / "default-headlines", metrics={**metrics, "sweep/best_val_loss": 2.5},
                tags={"best_trial": "17"})  # fmt: skip
    return folder


def list_lines(outputs: Path, capsys: pytest.CaptureFixture[str], *options: str) -> list[str]:
    assert cli.main(["list", "--output-dir", str(outputs), *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_tables_fit_80_columns(outputs, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = list_lines(outputs, capsys)
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines if line.strip()][:4] == ["run", lines[1].split()[0], "mine", "study"]
    assert lines[1].startswith("a-name-that")  # newest first
    assert "2026-02-02_03-04-05" in lines[1]  # whole, since it is what to type
    assert "interrupted" in lines[1]
    assert lines[2].split() == ["mine", "2026-01-02_03-04-05", "completed", "2", "1.500", "smoke"]
    assert lines[5].split() == ["default-headlines", lines[5].split()[1], "completed", "2.500", "17"]
    assert lines[6] == "  trials: 20 completed · 4 pruned · 1 diverged · 2 interrupted"


def test_test_losses_have_a_column_if_there_are_any(outputs, capsys) -> None:
    assert "test loss" not in list_lines(outputs, capsys)[0]
    write_run(outputs / "2026-03-02_03-04-05_scored", [2.0], test_loss=2.125)
    header, line, *_ = list_lines(outputs, capsys)
    assert header.split() == [
        "run",
        "date",
        "status",
        "steps",
        "val",
        "loss",
        "test",
        "loss",
        "experiment",
        "or",
        "model",
    ]
    assert line.split()[4:6] == ["2.000", "2.125"]
    assert json.loads("\n".join(list_lines(outputs, capsys, "--json")))["runs"][0]["test_loss"] == 2.125


def test_nothing_is_shortened_in_a_pipe(outputs, capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert "a-name-that-is-far-too-long-for-a-terminal-of-eighty-columns " in list_lines(outputs, capsys)[1]


def test_json_has_everything(outputs, capsys) -> None:
    found = json.loads("\n".join(list_lines(outputs, capsys, "--json")))
    assert [run["name"] for run in found["runs"]][1] == "mine"
    assert found["runs"][1]["folder"] == str(outputs / "2026-01-02_03-04-05_mine")
    assert found["studies"][0]["trials"]["pruned"] == 4


def test_damaged_folders_are_listed_with_their_reason(outputs, capsys) -> None:
    (outputs / "2026-01-02_03-04-05_mine" / "metrics.jsonl").write_bytes(b"\xff\n")
    (outputs / "sweeps" / "default-headlines" / "summary.json").write_text("{")
    (outputs / "notes").mkdir()  # no run
    (outputs / "link").symlink_to(outputs / "absent")
    lines = list_lines(outputs, capsys)
    assert sum(line.split()[2:3] == ["damaged"] for line in lines) == 2
    assert any(line.startswith("damaged: ") and "metrics.jsonl, line 1" in line for line in lines)
    assert any(line.startswith("damaged: ") and "summary.json is damaged" in line for line in lines)


def test_empty_folder_says_how_to_record_a_run(tmp_path, capsys) -> None:
    [line] = list_lines(tmp_path / "absent", capsys)
    assert line.startswith(f"no runs in {tmp_path}/absent yet; record one with ")
    (tmp_path / "file").touch()
    assert cli.main(["list", "--output-dir", str(tmp_path / "file")]) == 2


def test_reader_may_close_the_pipe_and_nothing_heavy_is_loaded(outputs) -> None:
    for number in range(500):
        (outputs / f"2026-03-02_03-04-05_{'x' * 60}{number}").symlink_to(outputs / "2026-01-02_03-04-05_mine")
    heavy = ("torch", "mlflow", "hydra", "transformers", "optuna", "matplotlib")
    code = (
        "import sys; from harness import cli; status = cli.main(sys.argv[1:]); "
        f"loaded = [name for name in {heavy} if name in sys.modules]; sys.exit(str(loaded) if loaded else status)"
    )
    listing = subprocess.Popen(
        [sys.executable, "-c", code, "list", "--output-dir", outputs],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert listing.stdout is not None
    listing.stdout.readline()
    listing.stdout.close()
    assert listing.wait() == 0
    assert listing.stderr is not None
    assert listing.stderr.read() == b""
    listing.stderr.close()
