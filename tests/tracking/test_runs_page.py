"""The first pages of the MLflow UI: our experiment in the place of its own, the view of the runs, and their names."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow.entities import ViewType
from mlflow.store.tracking import DEFAULT_TRACKING_URI

from harness.core.paths import project_dir
from harness.tracking import store_uri
from harness.tracking.mlflow_client import TrackingClient, connect_to_store
from harness.tracking.run_names import format_run_name
from harness.tracking.runs_page import (
    CHARTS,
    VIEW_TAG,
    find_runs_page,
    format_comparison_page,
    make_experiment_tags,
)
from harness.tracking.store_uri import default_store_uri
from tests.observers.sample_events import make_effective_settings
from tests.tracking.stores import migrated_store, new_store


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of the default store, which is in the folder of the project."""
    monkeypatch.setattr(store_uri, "project_dir", lambda: tmp_path)
    return new_store(tmp_path)


def list_experiments(uri: str) -> dict[str, str]:
    """Return the names of all experiments, deleted ones too, by id."""
    found = connect_to_store(uri).search_experiments(ViewType.ALL)
    return {experiment.experiment_id: experiment.name for experiment in found}


def test_plain_mlflow_ui_finds_the_default_store() -> None:
    assert default_store_uri() == DEFAULT_TRACKING_URI.replace("///", f"///{project_dir()}/")


def test_first_experiment_takes_the_place_of_the_empty_one(tmp_path: Path, store: str) -> None:
    client = TrackingClient(store)
    run_id = client.get_or_create_run("mine", "1", "a run", 0)
    client.get_or_create_experiment("another")
    assert list_experiments(store) == {"0": "mine", "1": "another"}
    assert TrackingClient(store).find_run("mine", "1") == run_id
    run = connect_to_store(store).get_run(run_id)
    assert run.info.artifact_uri == f"file://{tmp_path}/mlruns/artifacts/0/{run_id}/artifacts"


@pytest.mark.parametrize("change", ["created elsewhere", "used", "deleted", "renamed"])
def test_stores_and_experiments_of_others_are_left_alone(change: str, tmp_path: Path, store: str) -> None:
    theirs = connect_to_store(store)
    if change == "created elsewhere":
        with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
            database.execute("UPDATE experiments SET artifact_location = ?", [f"file://{tmp_path}/mlruns/0"])
    elif change == "used":
        theirs.delete_run(theirs.create_run("0").info.run_id)
    elif change == "deleted":
        theirs.delete_experiment("0")
    else:
        theirs.rename_experiment("0", "theirs")
    before = list_experiments(store)
    TrackingClient(store).get_or_create_experiment("ours")
    assert list_experiments(store) == {**before, "1": "ours"}


def test_experiment_of_a_program_leaves_mlflows_own_to_its_runs(store: str) -> None:
    TrackingClient(store).show_columns("app", ["metrics.`objective`"])
    assert list_experiments(store) == {"0": "Default", "1": "app"}


def test_experiment_of_a_store_elsewhere_leaves_mlflows_own(store: str, monkeypatch) -> None:
    monkeypatch.undo()
    TrackingClient(store).get_or_create_experiment("mine")
    assert list_experiments(store) == {"0": "Default", "1": "mine"}


def test_new_store_keeps_its_artifacts_beside_it() -> None:
    folder = Path(migrated_store().name)  # MLflow would put them into the current folder
    default = connect_to_store(f"sqlite:///{folder}/mlflow.db").get_experiment("0")
    assert default.artifact_location == f"{folder.as_uri()}/mlruns/artifacts/0"


def test_runs_page_is_that_of_the_latest_run(store: str) -> None:
    client = connect_to_store(store)
    assert find_runs_page(client) == ""
    TrackingClient(store).get_or_create_run("ours", "1", "a run", 1_000)
    page = "#/experiments/0/runs?workflowType=machine_learning"
    assert find_runs_page(client) == f"{page}&viewStateShareKey=plateau"
    theirs = client.create_experiment("theirs")
    client.create_run(theirs, start_time=2_000)
    assert find_runs_page(client) == page.replace("/0/", f"/{theirs}/")  # it has no view of ours


def test_charts_of_the_view_begin_with_the_validation_loss() -> None:
    view = json.loads(json.loads(make_experiment_tags(5)[VIEW_TAG])["state"])
    shown = [chart["metricKey"] for chart in view["compareRunCharts"] if not chart["deleted"]]
    assert shown[:2] == ["val/loss", "train/loss"]
    sections = [section["uuid"] for section in view["compareRunSections"]]
    assert sections == list(CHARTS)
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == set(sections)


def test_comparison_page_has_all_runs() -> None:
    page = unquote(format_comparison_page("0", ["a", "b"]))
    assert page == '#/compare-runs?runs=["a","b"]&experiments=["0"]'


@pytest.mark.parametrize(
    ("name", "tags", "params", "lr", "expected"),
    [
        ("2026-11-29_10-45-12_adamw-cosine", {}, {}, 1e-3, "adamw-cosine 2026-11-29_10-45-12"),
        ("2026-11-29_10-45-12_my_run_1", {}, {}, 1e-3, "my_run_1 2026-11-29_10-45-12"),
        ("my folder", {}, {}, 1e-3, "my folder"),
        ("3", {"study": "lora"}, {}, 3e-3, "lora/3 adamw 3e-3"),
        ("12", {"study": "a/b"}, {"optimizer": "sgd"}, 0.0149, "a/b/12 sgd 1.5e-2"),
        ("3", {"study": "lora"}, {}, None, "lora/3 adamw"),
    ],
)
def test_names_begin_with_what_tells_runs_apart(name, tags, params, lr, expected) -> None:
    effective = make_effective_settings(param_groups={"matrices": {"peak_lr": lr}})
    start = {"name": name, "tags": tags, "params": params, "effective": vars(effective)}
    assert format_run_name(start) == expected
