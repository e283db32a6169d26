"""Trials that other programs ran, read from their record or from the logs beside it."""

from pathlib import Path

import pytest

from harness import cli
from harness.importers import read_history
from tests.record.trials import make_start, write_trial

LOSSES = [3.0, 2.5, 2.25]
TEXT = "".join(f"step {10 * at} | loss {3 - at / 10:.3f} | lr 3e-4\n" for at in range(1, 9))


def test_curves_by_the_names_of_the_program(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "3", LOSSES, objective="eval_loss", direction="minimize", curves={"loss": LOSSES})
    history = read_history(folder)
    assert history["val/loss"].values.tolist() == LOSSES
    assert history["train/loss"].steps.tolist() == [10, 20, 30]
    facts = history.facts
    assert (facts.name, facts.status, facts.total_steps) == ("rank/3 lr=3e-4 rank=8", "completed", 40)
    assert (facts.peak_lr, facts.program) == (0.0003, None)
    assert read_history(folder / "trial_record.jsonl").facts.name == facts.name


@pytest.mark.parametrize(
    ("objective", "direction"),
    [("objective", "minimize"), ("val/loss", "maximize"), ("val/acc", "maximize"), ("value", "minimize")],
)
def test_objective_of_unknown_meaning_is_no_loss(objective, direction, tmp_path: Path) -> None:
    history = read_history(write_trial(tmp_path / "3", LOSSES, objective=objective, direction=direction))
    assert not len(history["val/loss"])
    assert not len(history["train/loss"])
    [note] = history.facts.notes
    assert f"no metric that the program reported names a loss; its metrics: {objective}" in note


def test_log_of_the_program_is_read_where_it_has_more_curves(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "3")
    (folder / "output.log").write_text(TEXT)
    history = read_history(folder)
    assert len(history["train/loss"]) == 8
    assert (history.facts.name, history.facts.status) == ("rank/3 lr=3e-4 rank=8", "completed")
    richer = write_trial(tmp_path / "4", LOSSES, objective="val_loss", direction="minimize", curves={"loss": LOSSES})
    (richer / "output.log").write_text(TEXT)
    assert read_history(richer)["val/loss"].values.tolist() == LOSSES


def test_metrics_file_of_the_program_is_one_of_its_logs(tmp_path: Path) -> None:
    folder = write_trial(tmp_path / "3")
    rows = "".join(
        f'{{"step": {step}, "loss": {3 - step / 10}, "val_loss": {3 - step / 20}}}\n' for step in range(1, 9)
    )
    (folder / "metrics.jsonl").write_text(rows)
    history = read_history(folder)
    assert (len(history["val/loss"]), len(history["train/loss"])) == (8, 8)
    assert history.facts.name == "rank/3 lr=3e-4 rank=8"


def test_diagnose_of_a_trial(tmp_path: Path, capsys) -> None:
    rising = [3.0, *(1.0 + step / 10 for step in range(30))]
    folder = write_trial(tmp_path / "3", rising, objective="val_loss", direction="minimize",
                         curves={"loss": [2.0 - step / 20 for step in range(31)]})  # fmt: skip
    assert cli.main(["diagnose", str(folder)]) == 0
    shown = capsys.readouterr()
    assert "rank/3 lr=3e-4 rank=8" in shown.out
    assert "overfitting" in shown.out
    assert "optimizer.lr=" not in shown.out  # in plain words: the program has other keys
    assert cli.main(["diagnose", str(write_trial(tmp_path / "4"))]) == 0
    assert "its metrics: val/acc" in capsys.readouterr().err


def test_damaged_trial_is_refused_in_one_line(tmp_path: Path, capsys) -> None:
    folder = write_trial(tmp_path / "3")
    path = folder / "trial_record.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"val/acc": 0.9', b'"val/acc": 0.8'))
    assert cli.main(["diagnose", str(folder)]) == 2
    assert "line 3: damaged" in capsys.readouterr().err
    assert make_start().name == "3"
