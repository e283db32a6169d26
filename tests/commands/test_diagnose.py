"""`python -m harness diagnose`: what a person sees of any run or log."""

from pathlib import Path

import pytest

from harness import cli


@pytest.fixture
def log(tmp_path) -> Path:
    path = tmp_path / "theirs.log"
    path.write_text(
        "\n".join(f"Step {n}: train loss {5 - n / 1000}, val loss {5 - n / 1200}" for n in range(0, 2000, 500))
    )
    return path


def test_a_run_and_a_log_are_headed_by_what_was_read_and_scored_by_their_forecasts(finished, log, capsys) -> None:
    assert cli.main(["diagnose", str(finished), str(log), "--expect", "step 1000: val/loss < 4.2"]) == 0
    ours, theirs = capsys.readouterr().out.split("theirs\n")
    assert ours.startswith(f"{finished.name}\n")
    assert "completed · step 12 of 12 · points: 12 of train/loss, 4 of val/loss" in ours
    assert "step 4: val/loss < 1: missed" in ours
    assert "of 3 expectations met" in ours
    assert f"text log {log}: 4 of 4 lines parsed" in theirs
    assert "step 1500 · points: 4 of train/loss, 4 of val/loss" in theirs
    assert "best validation loss 3.75 at step 1500" in theirs
    assert "step 1000: val/loss < 4.2: met (4.167 at step 1000, 0.0333 below)" in theirs


def test_several_runs_are_said_to_be_comparable_or_not(finished, log, capsys) -> None:
    cli.main(["diagnose", str(log), str(log)])
    assert "these runs may be compared" in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["default", "documents"])
def test_the_thresholds_are_those_of_the_preset(preset, log) -> None:
    assert cli.main(["diagnose", str(log), "--thresholds", preset]) == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{folder}/absent.log"], "absent.log' is no file, no folder, no run in"),
        (["{folder}/empty"], "contains no metrics.jsonl, trainer_state.json or TensorBoard event file"),
        (["{folder}/theirs.log", "{folder}/words.txt"], "words.txt: no step and loss found in 1 lines"),
        (["{folder}/theirs.log", "--thresholds", "strict"], "thresholds has no option 'strict'"),
        (["{folder}/theirs.log", "--expect", "loss 3"], "--expect: 'loss 3' is not a valid expectation"),
        (["f" * 32, "--uri", "mlruns"], "'mlruns' is not a tracking store"),
    ],
)
def test_what_cannot_be_read_is_named_with_exit_status_2_and_nothing_is_told(arguments, said, log, capsys) -> None:
    (log.parent / "words.txt").write_text("all is well")
    (log.parent / "empty").mkdir()
    assert cli.main(["diagnose", *(one.format(folder=log.parent) for one in arguments)]) == 2
    told = capsys.readouterr()
    assert said in told.err
    assert told.out == ""
