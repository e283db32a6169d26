"""Sweeps of other programs: their parent run, the store that they are uploaded to, and how they are found again."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from harness import cli
from harness.core.errors import ConfigError
from harness.record.metrics_file import write_json
from harness.record.run_lookup import default_output_dir, find_run, list_studies
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import TrackingClient
from harness.tracking.runs_page import VIEW_TAG
from harness.tracking.store_uri import (
    check_recorded_uri,
    default_store_uri,
    find_store_uris,
    program_store_uri,
    resolve_store_uri,
)
from harness.tracking.sweep_uploader import SweepUploader, is_upload_complete
from harness.tracking.upload_cursor import UploadCursor
from harness.tracking.upload_process import UploadProcess
from tests.conftest import ROOT, drop_announcements
from tests.record.test_trial_record import WRITER
from tests.record.trials import TAGS, write_trial
from tests.tracking.stores import new_store, wait_until

PAIR = json.dumps({"sentence_good": "a", "sentence_bad": "b", "UID": "x", "linguistics_term": "y", "field": "z"}) + "\n"
SEARCHED = {"space.optimizer.lr": "log(1e-5, 1e-3)", "space.model.rank": "8,16"}


def write_sweep(folder: Path, uri: str, **changes: Any) -> Path:
    """Create the folder of a sweep as its coordinator does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "sweep.json", {
        "id": TAGS["harness.sweep"], "name": "rank", "uri": uri, "experiment": "default", "started_at_ms": 1_000,
        "params": {"n_trials": "3", **SEARCHED}, "tags": {"command": "python train.py", "user": "ada"}, **changes,
    })  # fmt: skip
    return folder


def write_summary(sweep: Path, values: list[float], name: str = "val/acc", choose: Callable = max) -> None:
    write_json(sweep / "summary.json", {
        "status": "completed", "ended_at_ms": 90_000,
        "objectives": {name: "maximize" if choose is max else "minimize"},
        "metrics": {f"sweep/best_{name}": choose(values), "sweep/trials.completed": len(values)},
        "tags": {"best_trial": str(values.index(choose(values)))},
        "history": [[number, {f"sweep/{name}": value, f"sweep/best_{name}": choose(values[: number + 1])},
                     10_000 + number] for number, value in enumerate(values)],
    })  # fmt: skip


def read_runs(uri: str) -> tuple[Any, dict[str, Any]]:
    """Return the experiment, and its runs by name."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("default")
    return experiment, {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, where another program is started: with an MLflow store, and without MLFLOW_TRACKING_URI."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "home").mkdir()
    new_store(tmp_path / "home")
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def write_whole_sweep(home: Path, values: tuple[float, ...] = (0.5, 0.9, 0.7)) -> Path:
    sweep = write_sweep(home / "multirun" / "rank", program_store_uri())
    for number, value in enumerate(values):
        write_trial(sweep / str(number), [0.1, value])
    write_summary(sweep, list(values))
    return sweep


def test_parent_run_ranks_what_is_maximized(home: Path) -> None:
    assert SweepUploader(write_whole_sweep(home))().is_complete
    experiment, runs = read_runs(program_store_uri())
    parent = runs.pop("rank")
    trials = [runs[name] for name in sorted(runs)]
    assert sorted(runs) == [f"rank/{number} lr=3e-4 rank=8" for number in range(3)]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    shown = parent.data.metrics
    assert (shown["sweep/best_val/acc"], shown["sweep/val/acc"], shown["objective"]) == (0.9, 0.7, 0.9)
    assert "val/best_loss" not in shown
    assert parent.data.tags["best_run_id"] == trials[1].info.run_id
    table = parent.data.tags["mlflow.note.content"].splitlines()[2:]
    assert table[0] == "| best trials | val/acc |"
    assert [row.split("|")[2].strip() for row in table[2:]] == ["0.9000", "0.7000", "0.5000"]
    view = json.loads(json.loads(experiment.tags[VIEW_TAG])["state"])
    assert view["selectedColumns"][2:] == ["metrics.`objective`", "params.`optimizer.lr`", "params.`model.rank`"]


def test_complete_upload_is_not_repeated_until_the_sweep_has_more(home: Path) -> None:
    sweep = write_whole_sweep(home)
    assert not is_upload_complete(sweep)
    SweepUploader(sweep)()
    assert is_upload_complete(sweep)
    write_trial(sweep / "3", [0.1, 0.2])
    write_summary(sweep, [0.5, 0.9, 0.7, 0.2])
    assert not is_upload_complete(sweep)


def test_folders_that_the_program_wrote_beside_its_trials_are_no_trials(home: Path) -> None:
    sweep = write_whole_sweep(home)
    (sweep / "best_model").mkdir()
    (sweep / "best_model" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    assert SweepUploader(sweep)().is_complete
    assert not (sweep / "best_model" / "mlflow.json").exists()


def test_names_with_marks_do_not_break_the_table(home: Path) -> None:
    sweep = write_sweep(home / "rank", program_store_uri())
    write_trial(sweep / "0", [0.5], objective="a|b", direction="minimize", searched={"x": "a|b[c](d)"})
    write_summary(sweep, [0.5], "a|b", min)
    SweepUploader(sweep)()
    table = read_runs(program_store_uri())[1]["rank"].data.tags["mlflow.note.content"].splitlines()[2:]
    assert table[0] == r"| best trials | a\|b |"
    assert table[2].startswith(r"| [rank/0 x=a\|b\[c\](d)](#/experiments/")


def test_columns_of_a_later_study_are_added_to_our_view_only(home: Path) -> None:
    client = TrackingClient(program_store_uri())
    theirs = MlflowClient(client.uri).create_experiment("theirs", tags={"note": "mine"})
    client.get_or_create_experiment("ours")
    for name in ("ours", "theirs"):
        client.show_columns(name, ["metrics.`objective`", "params.`lr`"])
        client.show_columns(name, ["params.`lr`", *(f"params.`{key}`" for key in range(40))])
    assert MlflowClient(client.uri).get_experiment(theirs).tags == {"note": "mine"}
    saved = MlflowClient(client.uri).get_experiment_by_name("ours").tags[VIEW_TAG]
    view = json.loads(json.loads(saved)["state"])
    assert view["selectedColumns"][2:9] == [
        "metrics.`val/best_loss`", "params.`used.optimizer`", "params.`used.peak_lr.matrices`",
        "params.`used.schedule`", "metrics.`objective`", "params.`lr`", "params.`0`",
    ]  # fmt: skip
    assert len(view["selectedColumns"]) == len(set(view["selectedColumns"])) == 16
    assert view["columnOrder"] == view["selectedColumns"]


def test_upload_process_and_a_worker_killed_in_the_middle(home: Path) -> None:
    """The real process uploads while a worker writes; that is killed, and the upload says so."""
    sweep = write_sweep(home / "multirun" / "rank", program_store_uri())
    write_trial(sweep / "0")
    upload = UploadProcess(sweep, program_store_uri())
    worker = subprocess.Popen([sys.executable, "-c", WRITER, str(sweep / "3")], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    assert worker.stdout.readline() == b"written\n"
    wait_until(lambda: UploadCursor.load(sweep / "3").run_id is not None)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    write_summary(sweep, [0.8])
    upload.close()
    runs = read_runs(program_store_uri())[1]
    died = runs["rank/3 lr=3e-4 rank=8"]
    assert (died.info.status, died.data.tags["reason"]) == ("FAILED", "its process died")
    assert (died.data.metrics["val/acc"], died.data.metrics["train/loss"]) == (0.3, pytest.approx(1 / 3))
    assert "objective" not in died.data.metrics
    assert runs["rank"].info.status == "FINISHED"


def test_store_is_in_the_current_folder_unless_an_address_is_given(home: Path, monkeypatch) -> None:
    assert program_store_uri() == f"sqlite:///{home}/mlflow.db"
    assert program_store_uri("sqlite:///x.db") == f"sqlite:///{home}/x.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://team:5000")
    assert program_store_uri() == "http://team:5000"
    assert program_store_uri("sqlite:///x.db") == resolve_store_uri("sqlite:///x.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "./mlruns")
    with pytest.raises(ValueError, match=r"^MLFLOW_TRACKING_URI: './mlruns' is not a tracking store"):
        program_store_uri()


def test_stores_that_are_browsed_without_an_address(home: Path, monkeypatch) -> None:
    assert find_store_uris()[0] == f"sqlite:///{home}/mlflow.db"
    assert find_store_uris("sqlite:///none.db") == [f"sqlite:///{home}/none.db"]
    (home / "empty").mkdir()
    monkeypatch.chdir(home / "empty")
    assert f"sqlite:///{home}/empty/mlflow.db" not in find_store_uris()


def test_ui_shows_the_store_of_the_current_folder(home: Path, capsys) -> None:
    with closing(sqlite3.connect(home / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")  # else the server starts
    assert cli.main(["ui"]) == 1
    assert capsys.readouterr().err.startswith(f"--uri: sqlite:///{home}/mlflow.db: Detected out-of-date database")


def test_trial_is_diagnosed_by_its_id_in_mlflow(home: Path, capsys) -> None:
    sweep = write_sweep(home / "rank", program_store_uri())
    write_trial(sweep / "0", curves={"train/loss": [3.0, 2.0, 1.0]})
    write_trial(sweep / "1")
    SweepUploader(sweep)()
    ids = [str(UploadCursor.load(sweep / number).run_id) for number in "01"]
    sweep.rename(home / "elsewhere")
    assert cli.main(["diagnose", ids[0]]) == 0
    assert "points: 3 of train/loss" in capsys.readouterr().out
    assert cli.main(["diagnose", ids[1]]) == 2
    assert "no metric of this MLflow run names a loss; its metrics: val/acc" in capsys.readouterr().err


def test_sync_takes_the_sweep_in_its_folder_only(home: Path, monkeypatch, capsys) -> None:
    sweep = write_whole_sweep(home)
    monkeypatch.chdir(home / "multirun")
    with pytest.raises(ConfigError, match=f"not your tracking store; run this in {home}, or set MLFLOW_TRACKING_URI"):
        check_recorded_uri(f"sqlite:///{home}/mlflow.db", "sweep.json")
    monkeypatch.chdir(home)
    assert cli.main(["sync", str(sweep / "1")]) == 0  # a trial that no process has uploaded, to the store of its sweep
    assert cli.main(["sync", "rank"]) == 0
    assert f"to sqlite:///{home}/mlflow.db" in capsys.readouterr().out
    runs = read_runs(program_store_uri())[1]
    assert len(runs) == 4
    assert (home / "mlruns" / "artifacts" / runs["rank/1 lr=3e-4 rank=8"].info.run_id).is_dir()
    assert sweep_uploader.read_sweep_identity(sweep)["uri"] != default_store_uri()


@pytest.mark.parametrize("parent", ["multirun", "outputs/sweeps"])
def test_studies_of_other_programs_are_found_by_name(parent: str, home: Path, capsys) -> None:
    write_whole_sweep(home)
    if parent != "multirun":
        (home / "outputs").mkdir()
        (home / "multirun").rename(home / parent)
    study = home / parent / "rank"
    for name in ("rank/best", "rank/1", f"{parent}/rank/best", "rank/1 lr=3e-4 rank=8", str(study / "best"), "ran/1"):
        assert find_run(name, default_output_dir(), "RUN").resolve() == study / "1"
    assert study in [found.path for found in list_studies(default_output_dir())]
    assert study not in [found.path for found in list_studies(home / "elsewhere")]
    assert cli.main(["list", "--output-dir", str(study.parent)]) == 0
    header, line, counts = capsys.readouterr().out.splitlines()
    assert header.split() == ["study", "date", "status", "val/acc", "best", "trial"]
    assert line.split()[-2:] == ["0.9000", "1"]
    assert counts == "  trials: 3 completed"
    assert cli.main(["list", "--output-dir", str(study)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split()[4:5] == ["val/acc"]


def test_studies_with_several_objectives_are_labeled(home: Path, capsys) -> None:
    write_whole_sweep(home)
    other = write_sweep(home / "multirun" / "loss", program_store_uri())
    write_summary(other, [2.5, 1.5], "best_val_loss", min)
    write_json(other / "summary.json", {"status": "completed", "metrics": {"sweep/best_val_loss": 1.5}, "tags": {}})
    assert cli.main(["list", "--output-dir", str(home / "multirun")]) == 0
    shown = capsys.readouterr().out
    assert "best value" in shown.splitlines()[0]
    assert "val/acc 0.9000" in shown
    assert "val loss 1.500" in shown


@pytest.mark.parametrize(
    "command",
    [
        ["export", "rank/best", "--mlflow"],
        ["sample", "rank/best", "x"],
        ["prescribe", "rank/best"],
        ["blimp", "rank/best", "--data", "pairs.jsonl"],
        ["run", "experiment=smoke", "start=resume", "start.run=multirun/rank/1"],
        ["run", "experiment=smoke", "start=warm", "start.source=multirun/rank/1"],
        ["run", "experiment=smoke", "start=warm", "start.source=multirun/rank/2"],
    ],
)
def test_commands_that_need_our_files_say_what_they_were_given(command: list[str], home: Path, capsys) -> None:
    sweep = write_whole_sweep(home)
    (home / "pairs.jsonl").write_text(PAIR)
    (sweep / "2" / "config.yaml").write_text("lr: 1\n")  # the program's own
    try:
        status = cli.main(command)
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    [line] = drop_announcements(capsys.readouterr().err).splitlines()
    assert "was run by another program" in line
