"""Files in the current folder that trials write one after another."""

import os
import time
from pathlib import Path

import pytest

from harness.sweep.programs.command.shared_files import SharedFilesCheck, list_written_files, read_shared_files_note
from tests.sweep.programs.command.sweeps import run_sweep


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_files(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("x")


@pytest.mark.parametrize(
    ("first", "second", "note"),
    [
        (["out/ckpt.txt", "a"], ["out/ckpt.txt", "b"], "both wrote out/ckpt.txt; give"),
        (["1", "2", "3", "4", "5"], ["5", "4", "3", "2", "1"], "both wrote 1, 2, 3 and 2 more files; give"),
        (["a"], ["b"], ""),
        (["log.csv"], ["log.csv"], ""),
        (["run.log", "outputs/x", "mlruns/x", "mlflow.db", ".git/x", "p/__pycache__/x.so", "a/b/c/d"],) * 2 + ("",),
    ],
)  # fmt: skip
def test_files_that_two_trials_wrote(first, second, note, tmp_path) -> None:
    write_files("old.txt")
    os.utime("old.txt", (1, 1))
    check = SharedFilesCheck(tmp_path, ["log.csv"])
    for number, names in enumerate((first, second)):
        check.start_trial()
        time.sleep(0.02)  # the clock of the file system has steps
        write_files(*names)
        check.end_trial(number, tmp_path)
    expected = f"trials 0 and 1 {note} the program a folder of its own with {{out}}" if note else ""
    assert read_shared_files_note(tmp_path) == expected


def test_a_folder_is_not_walked_without_end(tmp_path, monkeypatch) -> None:
    write_files(*map(str, range(30)))
    monkeypatch.setattr("harness.sweep.programs.command.shared_files.MAX_ENTRIES", 10)
    assert len(list(list_written_files(tmp_path, 0.0))) == 10


def test_a_sweep_ends_with_the_note(capsys) -> None:
    Path("t.sh").write_text("mkdir -p ckpt; echo $$ >ckpt/last.txt; echo val_loss: 1")
    assert run_sweep("--n-trials 2 -- sh t.sh --lr 'interval(0,1)'") == 0
    assert "note: trials 0 and 1 both wrote ckpt/last.txt; give" in capsys.readouterr().out
    Path("t.sh").write_text("mkdir -p $1; echo $$ >$1/last.txt; echo val_loss: 1")
    assert run_sweep("--n-trials 2 --study u -- sh t.sh {out}/x --lr 'interval(0,1)'") == 0
    assert "both wrote" not in capsys.readouterr().out
