"""Overviews of runs and studies, damaged ones included."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core.files import FileLock
from harness.record.run_listing import RunOverview, StudyOverview, read_run_overview, read_study_overview
from harness.record.run_lookup import RunFolder
from tests.record.run_folders import write_run, write_study

NAME = "2026-01-02_03-04-05_mine"


def read_run(folder: Path) -> RunOverview:
    return read_run_overview(RunFolder(folder))


def read_study(folder: Path) -> StudyOverview:
    return read_study_overview(RunFolder(folder))


def test_completed_run(tmp_path) -> None:
    found = read_run(write_run(tmp_path / NAME, [3.0, 1.5, 2.0]))
    assert found == RunOverview(
        "mine", str(tmp_path / NAME), "2026-01-02_03-04-05", "completed", "", 3, 6, "best_val_loss", 1.5, "smoke"
    )


@pytest.mark.parametrize(
    ("overrides", "choice"),
    [(["model=gpt_small", "experiment=operator"], "operator"), (["model=gpt_small"], "gpt_small"), ([], "gpt_tiny")],
)
def test_choice_is_the_experiment_or_the_model(overrides, choice, tmp_path) -> None:
    params = {"model._target_": "harness.models.gpt.GPT"}
    assert read_run(write_run(tmp_path / NAME, [1.0], overrides=overrides, params=params)).choice == choice


def test_run_of_another_class_than_the_default_model_has_the_name_of_that_class(tmp_path) -> None:
    params = {"model._target_": "my_package.Mine"}
    assert read_run(write_run(tmp_path / NAME, [1.0], overrides=["seed=1"], params=params)).choice == "Mine"


def test_run_without_an_end_is_running_or_its_process_died(tmp_path) -> None:
    folder = write_run(tmp_path / NAME, [3.0, math.nan, 1.5, 2.0], status=None)
    with FileLock(folder / "metrics.jsonl"):
        running = read_run(folder)
    assert (running.status, running.step, running.best_value) == ("running", 4, 1.5)
    died = read_run(folder)
    assert (died.status, died.reason, died.step) == ("failed", "its process died", 4)


def test_line_that_was_cut_off_is_no_damage(tmp_path) -> None:
    folder = write_run(tmp_path / NAME, [3.0, 1.5], status=None)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "metr')
    assert (read_run(folder).status, read_run(folder).step) == ("failed", 2)


def test_diverged_run_has_no_best_loss(tmp_path) -> None:
    assert read_run(write_run(tmp_path / NAME, [math.inf], status="diverged")).best_value is None


def flip_first_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"experiment=smoke", b"experiment=smoky"))


def flip_last_line(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'"completed"', b'"complexed"'))


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: list[tuple[Callable[[Path], object], str]] = [
    (flip_first_line, "line 1: damaged"),
    (flip_last_line, "line 4: damaged"),
    (lambda path: path.write_bytes(b""), "empty: the run never started"),
    (lambda path: path.write_bytes(b"\x00\xff\n"), "damaged"),
    (lambda path: path.write_text('{"kind": "start"}\n'), "not as this program writes it (KeyError: 'params')"),
    (lambda path: path.write_text('{"kind": "start", "total_steps": 1, "params": []}\n'), "not as this program"),
    (lambda path: path.write_text("[" * 100_000 + "\n"), "damaged"),
    (lambda path: path.unlink(), "no such file"),
    (make_folder, "is a directory"),
]


@pytest.mark.parametrize(("damage", "reason"), DAMAGES)
def test_damaged_run_is_shown_as_such(damage, reason, tmp_path) -> None:
    folder = write_run(tmp_path / NAME, [1.0, 2.0])
    damage(folder / "metrics.jsonl")
    found = read_run(folder)
    assert (found.name, found.date, found.status) == ("mine", "2026-01-02_03-04-05", "damaged")
    assert reason in found.reason
    assert str(folder) in found.reason


def test_study(tmp_path) -> None:
    metrics = {"sweep/trials.completed": 3, "sweep/trials.pruned": 0, "sweep/best_val_loss": 1.25}
    folder = write_study(tmp_path / "one", metrics=metrics, tags={"best_trial": "2"})
    found = read_study(folder)
    assert (found.status, found.trials, found.best_value) == ("completed", {"completed": 3}, 1.25)
    assert found.best_trials == ("2",)
    front = read_study(write_study(tmp_path / "front", tags={"best_trials": "2,5"}))
    assert (front.best_trials, front.best_value) == (("2", "5"), None)


def test_sweep_whose_process_died(tmp_path) -> None:
    folder = write_study(tmp_path / "one", "running")
    assert (read_study(folder).status, read_study(folder).reason) == ("failed", "its process died")
    with FileLock(folder / "sweep.json"):
        assert read_study(folder).status == "running"


@pytest.mark.parametrize("content", [None, "{", "[]", "{}", '{"status": "completed", "metrics": [], "tags": {}}'])
def test_damaged_study_is_shown_as_such(content, tmp_path) -> None:
    folder = write_study(tmp_path / "one")
    if content is None:
        (folder / "summary.json").unlink()
    else:
        (folder / "summary.json").write_text(content)
    assert read_study(folder).status == "damaged"
    assert "summary.json" in read_study(folder).reason
