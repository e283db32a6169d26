"""Upload of trials that other programs ran."""

import math
from pathlib import Path

import pytest

from harness import cli
from harness.record.trial_record import TrialEnd, TrialRecord
from harness.tracking.mlflow_client import sanitize_key
from harness.tracking.run_names import format_run_name
from harness.tracking.run_uploader import list_trial_columns, upload_run
from harness.tracking.upload_cursor import UploadCursor
from tests.record.trials import make_start, write_trial
from tests.tracking.stores import new_store, only_run, recorded_points, stored_points


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return new_store(tmp_path)


def upload_trial(folder: Path, uri: str):
    """Upload a trial and return its run in MLflow."""
    UploadCursor(uri, "default").save(folder)
    assert upload_run(folder).is_complete
    return only_run(uri)[1]


def list_artifacts(run) -> dict[str, Path]:
    folder = Path(run.info.artifact_uri.removeprefix("file://"))
    return {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}


def test_trial_in_the_store(tmp_path: Path, store: str) -> None:
    folder = write_trial(tmp_path / "3", curves={"train/loss": [3.0, 2.0, 1.0]})
    (folder / "output.log").write_text("loss 3\n")
    (folder / "figures").mkdir()
    (folder / "figures" / "mine.png").write_bytes(b"png")
    (folder / "private.txt").write_text("the program's own")
    run = upload_trial(folder, store)
    assert (run.info.run_name, run.info.status) == ("rank/3 lr=3e-4 rank=8", "FINISHED")
    assert {key: run.data.params[key] for key in ("model.class", "optimizer.lr")} == {
        "model.class": "app.Net", "optimizer.lr": "0.0003",
    }  # fmt: skip
    assert not [key for key in run.data.params if key.startswith("used.")]
    assert (run.data.metrics["objective"], run.data.metrics["val/acc"], run.data.metrics["train/loss"]) == (0.8, 0.8, 1)
    tags = run.data.tags
    assert (tags["study"], tags["trial"], tags["status"], tags["mlflow.user"]) == ("rank", "3", "completed", "ada")
    assert (tags["mlflow.source.name"], tags["mlflow.source.git.commit"]) == ("python train.py --rank 8", "c" * 40)
    assert "harness.effective" not in tags
    assert recorded_points(folder) <= stored_points(store)
    assert sorted(list_artifacts(run)) == ["figures/mine.png", "output.log", "trial_record.jsonl"]


def test_searched_settings_that_are_added_are_one_parameter(tmp_path: Path, store: str) -> None:
    params, searched = {"lr": "0.1", "model._target_": "app.Net"}, {"+lr": 0.1, "++width": 8, "model._target_": "app.N"}
    run = upload_trial(write_trial(tmp_path / "3", params=params, searched=searched), store)
    assert run.data.params == {"lr": "0.1", "width": "8", "model.class": "app.Net"}
    assert list_trial_columns(searched)[1:] == ["params.`lr`", "params.`width`", "params.`model.class`"]


def test_died_trial_in_the_store(tmp_path: Path, store: str) -> None:
    folder = write_trial(tmp_path / "3", status=None)
    (folder / "output.log").write_text("loss 3\n")
    (folder / "private.txt").write_text("the program's own")
    run = upload_trial(folder, store)
    assert (run.info.status, run.data.tags["reason"]) == ("FAILED", "its process died")
    assert "objective" not in run.data.metrics
    assert sorted(list_artifacts(run)) == ["output.log", "trial_record.jsonl"]


def test_objective_without_a_curve_has_its_name_too(tmp_path: Path, store: str) -> None:
    start = make_start(objectives={"f1": "maximize", "cost": "minimize"})
    TrialRecord(tmp_path / "3", start).end(TrialEnd("completed", values={"f1": 0.7, "cost": 5, "other": math.nan}))
    run = upload_trial(tmp_path / "3", store)
    assert run.data.metrics == {"objective/f1": 0.7, "objective/cost": 5, "f1": 0.7, "cost": 5}


def test_long_output_is_shortened(tmp_path: Path, store: str) -> None:
    folder = write_trial(tmp_path / "3")
    (folder / "output.log").write_bytes(b"first\n" + b"\xff\n" * 2_000_000 + b"last\n")
    uploaded = list_artifacts(upload_trial(folder, store))["output.log"].read_text()
    assert uploaded.startswith("first\n")
    assert uploaded.endswith("last\n")
    assert "2,000,011 bytes left out" in uploaded
    assert len(uploaded) < 2_100_000


def test_any_names_and_any_number_of_settings_are_accepted(tmp_path: Path, store: str) -> None:
    params = {**{f"section.{number}": "x" * 7000 for number in range(250)}, "a[0]": "1", "a(0)": "2", "/x//y/..": "3"}
    folder = write_trial(tmp_path / "3", params=params, objective="/acc@1//%", searched={"--lr": 1e-3, "data/../x": 2})
    run = upload_trial(folder, store)
    assert len(run.data.params) == 255
    assert (run.data.params["a_0_"], run.data.params["a_0__2"], run.data.params["x/y"]) == ("1", "2", "3")
    assert run.data.metrics["acc_1/_"] == 0.8


@pytest.mark.parametrize(
    ("name", "key"), [("a/b", "a/b"), ("../../x", "x"), ("/", "_"), ("", "_"), ("a/./b/", "a/b"), ("λ €", "λ _")]
)
def test_keys_are_such_that_mlflow_accepts(name: str, key: str) -> None:
    assert sanitize_key(name) == key


@pytest.mark.parametrize(
    ("searched", "expected"),
    [
        ({}, "rank/3"),
        ({"--lr": 0.00031, "--rank": 16}, "rank/3 lr=3.1e-4 rank=16"),
        ({"model.lr": 0.5, "head.lr": 2.0, "on": True}, "rank/3 model.lr=0.5 head.lr=2 on=True"),
        ({"data": "/a/long/path/to/the/very/same/data.txt"}, "rank/3 data=…/the/very/same/data.txt"),
        ({f"key{number}": "value" * 4 for number in range(30)}, None),
    ],
)
def test_name_of_a_trial_has_its_values(searched, expected) -> None:
    start = {"name": "3", "tags": {"study": "rank"}, "effective": None, "searched": searched}
    name = format_run_name(start)
    assert expected is None or name == expected
    assert len(name) <= 125


def test_sync_takes_a_trial(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_trial(tmp_path / "3", status="pruned")
    UploadCursor(store, "default").save(folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert "uploaded 4 lines" in capsys.readouterr().out
    run = only_run(store)[1]
    assert (run.info.status, run.data.tags["reason"]) == ("KILLED", "the reason")
