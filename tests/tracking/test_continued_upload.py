"""A run that is paused, killed and continued has one run in MLflow, with every step once."""

from collections import Counter
from pathlib import Path

import pytest

from harness.core.events import Event, StepEnd
from harness.run.run_dir import clear_run_dir
from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.run_uploader import upload_run
from harness.tracking.upload_cursor import UploadCursor
from harness.training.policies import Decision, Stop
from tests.run.test_continue_run import Case, die_after, pause_at
from tests.tracking.stores import new_store

DEFERRED = "+observers.mlflow={_target_: harness.observers.mlflow.DeferredMlflowUpload, uri: '%s'}"


@pytest.fixture
def case(tmp_path: Path, cache_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    store = new_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    case = Case(tmp_path, cache_dir, DEFERRED % store)
    case.store = store
    return case


def read_points(store: str, run_id: str | None) -> Counter:
    """Count the points of a run that do not depend on the clock."""
    client = connect_to_store(store)
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("perf/")]
    histories = (client.get_metric_history(run_id, name) for name in names)
    return Counter((point.key, point.step, point.value) for history in histories for point in history)


def read_run(case: Case):
    return connect_to_store(case.store).get_run(UploadCursor.load(case.folder).run_id)


def interrupt_after(step: int):
    def policy(event: Event) -> Decision:
        is_due = isinstance(event, StepEnd) and event.step == step
        return Stop("interrupted", "by the test") if is_due else None

    return policy


def test_history_is_that_of_a_run_that_never_stopped(case) -> None:
    straight = case.run_straight()
    upload_run(straight.folder)
    case.start(pause_at(2))
    assert upload_run(case.folder).is_complete
    paused = read_run(case)
    assert (paused.info.status, paused.info.end_time) == ("SCHEDULED", None)
    assert (paused.data.tags["status"], paused.data.tags["reason"]) == ("paused", "at a rung")
    assert {one.path for one in connect_to_store(case.store).list_artifacts(paused.info.run_id)} == set()
    case.die(die_after(11), is_continued=True)  # after the row of step 10; the last checkpoint is of step 8
    upload_run(case.folder)
    dead = read_run(case)
    assert (dead.info.status, dead.data.tags["reason"]) == ("FAILED", "its process died")
    uploaded = read_points(case.store, dead.info.run_id)
    case.go_on(interrupt_after(9))  # its row of steps 6 to 9 is not uploaded: the run may be continued
    upload_run(case.folder)
    assert read_points(case.store, dead.info.run_id) == uploaded
    case.go_on()
    assert upload_run(case.folder).is_complete
    upload_run(case.folder)  # changes nothing
    continued = read_run(case)
    assert continued.info.run_id == paused.info.run_id
    assert continued.info.status == "FINISHED"
    assert "reason" not in continued.data.tags
    points = read_points(case.store, continued.info.run_id)
    assert points == read_points(case.store, UploadCursor.load(straight.folder).run_id)
    assert set(points.values()) == {1}
    client = connect_to_store(case.store)
    assert len(client.get_metric_history(continued.info.run_id, "perf/steps_per_second")) == 3
    artifact = Path(continued.info.artifact_uri.removeprefix("file://")) / "metrics.jsonl"
    assert artifact.read_bytes() == (case.folder / "metrics.jsonl").read_bytes()


def test_run_that_starts_over_replaces_its_run_in_mlflow(case) -> None:
    case.start(pause_at(6))
    upload_run(case.folder)
    old = read_run(case).info
    clear_run_dir(case.folder)
    clear_run_dir(case.folder)  # as after a kill in between
    case.start()
    upload_run(case.folder)
    new = read_run(case).info
    client = connect_to_store(case.store)
    [only] = client.search_runs([new.experiment_id])
    assert only.info.run_id == new.run_id != old.run_id
    assert only.info.run_name == old.run_name
    assert client.get_run(old.run_id).info.lifecycle_stage == "deleted"
    assert set(read_points(case.store, new.run_id).values()) == {1}
