"""MLflow holds exactly the record: while the run goes on, after a server was down, after a kill."""

import math
import signal
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.observers.figures import FigureWriter
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import MlflowUploader
from harness.record import metrics_file
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import UploadCursor, upload_run
from harness.tracking.store_uri import artifact_root, default_store_uri, hide_credentials, resolve_store_uri
from tests.observers.sample_events import (
    eval_end,
    make_effective_settings,
    run_end,
    run_start,
    sample_run,
    send_events,
    step_end,
)
from tests.tracking.stores import (
    MlflowServer,
    free_port,
    new_store,
    only_run,
    recorded_points,
    stored_points,
    wait_until,
)

ROOT = Path(__file__).parents[2]
EXPECTED_PARAMS = {"optimizer.lr", *make_effective_settings().to_params()}


@pytest.fixture
def store(tmp_path) -> str:
    return new_store(tmp_path)


def recorded(folder: Path, uri: str, events=None) -> Path:
    """A run in `folder` whose record waits to be uploaded to `uri`."""
    send_events([MetricsWriter()], events or sample_run(folder))
    UploadCursor(uri, "default").save(folder)
    return folder


def test_a_run_is_in_the_store_when_it_ends(tmp_path, store, capsys) -> None:
    folder = tmp_path / "a run"
    send_events([MetricsWriter(), FigureWriter(), MlflowUploader(store, "default")], sample_run(folder))
    assert capsys.readouterr().err == ""
    _, run = only_run(store)
    assert stored_points(store) == recorded_points(folder)
    assert run.info.run_name == "a run"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["effective.parameters"] == "740352"
    assert run.data.params["effective.peak_lr.matrices"] == "0.001"
    tags = run.data.tags
    assert tags["status"] == "completed"
    assert "reason" not in tags
    assert (tags["host"], tags["mlflow.parentRunId"], tags["unit.val/loss"]) == ("here", "p" * 32, "nats/token")
    [dataset] = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("pydoc_qa", "d" * 36)
    artifacts = tmp_path / "artifacts" / run.info.run_id / "artifacts"
    files = sorted(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file())
    figures = [f"figures/{name}.png" for name in ("grad_norm", "loss", "lr")]
    assert files == ["command.txt", "config.yaml", *figures, "metrics.jsonl"]
    assert (artifacts / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("status", "expected"),
    [("pruned", "KILLED"), ("interrupted", "KILLED"), ("diverged", "FAILED"), ("failed", "FAILED")],
)
def test_a_run_that_did_not_complete_ends_with_its_reason(tmp_path, store, status: str, expected: str) -> None:
    upload_run(recorded(tmp_path / status, store, sample_run(tmp_path / status, 5, status, "so it was")))
    _, run = only_run(store)
    assert run.info.status == expected
    assert (run.data.tags["status"], run.data.tags["reason"]) == (status, "so it was")


def test_a_run_that_goes_on_from_another_leads_to_it(tmp_path, store) -> None:
    links = {"resumed.run": "the old one", "resumed.step": "1500", "resumed.run_id": "r" * 32}
    [start, *rest] = sample_run(tmp_path / "run")
    upload_run(recorded(tmp_path / "run", store, [replace(start, tags={**start.tags, **links}), *rest]))
    _, run = only_run(store)
    page = f"#/experiments/{run.info.experiment_id}/runs/{'r' * 32}"
    assert run.data.tags["mlflow.note.content"] == f"Resumed from step 1500 of [the old one]({page})"


def test_what_is_uploaded_again_from_the_start_is_there_once(tmp_path, store) -> None:
    folder = recorded(tmp_path / "run", store)
    for _ in range(2):
        assert upload_run(folder).lines > 0
        assert stored_points(store) == recorded_points(folder)
        UploadCursor(store, "default").save(folder)  # as if it had been lost before it was written
    assert upload_run(folder).is_complete
    assert upload_run(folder).lines == 0
    assert only_run(store)[1].data.params.keys() == EXPECTED_PARAMS


def test_a_run_under_way_is_uploaded_as_far_as_it_is_and_stays_running(tmp_path, store) -> None:
    observer, folder = MetricsWriter(), tmp_path
    observer(run_start(folder, log_every=1))
    observer(step_end(1))
    UploadCursor(store, "default").save(folder)
    first = upload_run(folder)
    assert (first.lines, first.is_complete) == (3, False)
    assert only_run(store)[1].info.status == "RUNNING"
    observer(step_end(2))
    observer(run_end(step=2))
    assert not upload_run(folder).is_complete  # its files may still be being made
    observer.close()
    assert upload_run(folder).is_complete
    assert stored_points(store) == recorded_points(folder)
    assert only_run(store)[1].info.status == "FINISHED"


def test_numbers_that_are_not_finite_arrive(tmp_path, store) -> None:
    losses = map(step_end, range(1, 4), (math.nan, math.inf, -math.inf))
    events = iter([run_start(tmp_path, 3, 1), *losses, eval_end(3, math.nan, math.inf), run_end("diverged", "nan", 3)])
    folder = recorded(tmp_path, store, events)
    for _ in range(2):
        upload_run(folder)
        assert stored_points(store) == recorded_points(folder)
        UploadCursor(store, "default").save(folder)


def test_more_than_a_batch_of_metrics_and_parameters_arrives_and_a_long_value_is_cut_aloud(tmp_path, store) -> None:
    params = {**{f"key.{i}": str(i) for i in range(250)}, "data.text": "x" * 7000, "odd [key]": "", "empty": ""}
    start = run_start(tmp_path, 400, 1, params=params)
    said: list[str] = []
    folder = recorded(tmp_path, store, iter([start, *map(step_end, range(1, 401)), run_end(step=400)]))
    upload_run(folder, said.append)
    assert said == ["data.text: MLflow takes 6000 of 7000 characters; config.yaml has the whole value"]
    _, run = only_run(store)
    assert len(params.keys() & run.data.params.keys()) == 252  # MLflow renames one
    assert run.data.params["data.text"] == "x" * 6000
    assert run.data.params["odd _key_"] == ""
    assert stored_points(store) == recorded_points(folder)


def test_a_store_that_another_process_has_locked_is_waited_for(tmp_path, store) -> None:
    folder = recorded(tmp_path / "run", store)
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1.0, other.execute, ["COMMIT"])
    release.start()
    assert upload_run(folder).is_complete
    release.join()
    other.close()
    assert stored_points(store) == recorded_points(folder)


def test_two_uploads_at_once_make_one_run(tmp_path, store) -> None:
    folder = recorded(tmp_path / "run", store)
    both = [threading.Thread(target=upload_run, args=(folder,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert stored_points(store) == recorded_points(folder)


KILLED = """
import os, signal, sys
from pathlib import Path
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import MlflowUploader
from tests.observers.sample_events import step_end, sample_run
observers = [MetricsWriter(), *(MlflowUploader(sys.argv[2]) for _ in sys.argv[2:])]
for event in sample_run(Path(sys.argv[1]), 1000):
    for observer in observers:
        observer(event)
    if event == step_end(750, event.loss if hasattr(event, "loss") else 0):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(*arguments: str) -> None:
    """A run of a process of its own, killed at step 750 of 1000."""
    done = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL


def assert_died(store: str, folder: Path) -> None:
    _, run = only_run(store)
    assert run.info.status == "FAILED"
    assert (run.data.tags["status"], run.data.tags["reason"]) == ("failed", "its process died")
    points = stored_points(store)
    assert points == recorded_points(folder)
    assert max(step for _, step, _, _ in points) == 750
    assert set(UploadCursor.load(folder).files) >= {"config.yaml", "metrics.jsonl"}


def test_a_run_that_is_killed_is_uploaded_to_its_last_line_by_the_process_beside_it(tmp_path, store) -> None:
    folder = tmp_path / "run"
    killed(str(folder), store)
    wait_until(lambda: UploadCursor.load(folder).is_complete)
    assert_died(store, folder)


def test_a_run_that_is_killed_with_all_its_helpers_is_uploaded_by_sync(tmp_path, store, capsys) -> None:
    folder = tmp_path / "run"
    killed(str(folder))
    UploadCursor(store, "default").save(folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert_died(store, folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert "nothing to upload" in capsys.readouterr().out
    assert_died(store, folder)


@pytest.fixture(scope="module")
def outage(tmp_path_factory) -> dict:
    """A server that is killed while a run goes on, is away for a whole second run, and comes back; then sync, twice."""
    tmp_path = tmp_path_factory.mktemp("outage")
    store, port = new_store(tmp_path), free_port()
    server = MlflowServer(store, port, tmp_path / "artifacts")
    halfway, away = tmp_path / "halfway", tmp_path / "away"
    told = {"store": store, "halfway": halfway, "away": away}
    patch = pytest.MonkeyPatch()
    patch.setattr(sys, "stderr", (tmp_path / "stderr").open("w+"))
    try:
        events = list(sample_run(halfway, 60))
        observers = [MetricsWriter(), MlflowUploader(server.uri, "halfway")]
        for index, event in enumerate(events):
            for observer in observers:
                observer(event)
            if index == len(events) // 2:
                wait_until(
                    lambda: UploadCursor.load(halfway).offset == (halfway / metrics_file.METRICS_FILE).stat().st_size
                )
                told["before"] = stored_points(store, "halfway")
                server.kill()
        for observer in observers:
            observer.close()
        send_events([MetricsWriter(), MlflowUploader(server.uri, "away")], sample_run(away))
        sys.stderr.seek(0)
        told["warnings"] = sys.stderr.read().splitlines()
        told["while down"] = cli.main(["sync", str(halfway), str(away)])
        server = MlflowServer(store, port, tmp_path / "artifacts")
        told["after"] = cli.main(["sync", str(halfway), str(away)])
        told["once"] = {name: stored_points(store, name) for name in ("halfway", "away")}
        for folder in (halfway, away):  # the worst case: everything was taken, and nothing of that was noted
            UploadCursor(server.uri, folder.name).save(folder)
        told["again"] = cli.main(["sync", str(halfway), str(away)])
    finally:
        patch.undo()
        server.kill()
    return told


@pytest.mark.parametrize("name", ["halfway", "away"])
def test_sync_brings_what_a_server_that_was_down_has_missed_and_doubles_nothing(outage, name: str) -> None:
    assert (outage["while down"], outage["after"], outage["again"]) == (1, 0, 0)
    record_of_run = recorded_points(outage[name])
    assert 0 < outage["before"].total() < recorded_points(outage["halfway"]).total()
    assert outage["once"][name] == record_of_run
    assert stored_points(outage["store"], name) == record_of_run
    _, run = only_run(outage["store"], name)
    assert run.info.status == "FINISHED"
    assert run.data.params.keys() == EXPECTED_PARAMS


def test_a_run_without_its_server_is_recorded_whole_and_says_so_once(outage) -> None:
    for name in ("halfway", "away"):
        *_, (end, _) = metrics_file.read_entries(outage[name] / metrics_file.METRICS_FILE)
        assert end["status"] == "completed"
        assert sum(f"kept in {outage[name]}" in line for line in outage["warnings"]) == 1
        assert sum(f"plateau sync {outage[name]}" in line for line in outage["warnings"]) == 1
    assert len(outage["warnings"]) == 4


def test_a_failed_upload_names_the_store_and_the_cause(tmp_path) -> None:
    port = free_port()
    folder = recorded(tmp_path, f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(UploadError, match=rf"upload to MLflow at http://127.0.0.1:{port} failed: .*refused"):
        upload_run(folder)


def test_without_a_record_to_read_there_is_a_warning_and_nothing_else(tmp_path, capsys) -> None:
    send_events([MlflowUploader(f"sqlite:///{tmp_path}/mlflow.db")], iter([run_start(tmp_path), run_end()]))
    expected = "warning: no upload to MLflow: it reads metrics.jsonl, which observers.metrics_file writes\n"
    assert capsys.readouterr().err == expected
    assert not list(tmp_path.iterdir())


def test_the_default_store_is_the_projects_own_wherever_a_command_starts(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_store_uri() == f"sqlite:///{ROOT}/mlruns/mlflow.db"
    assert resolve_store_uri(None) == default_store_uri()
    assert resolve_store_uri("sqlite:///here/runs.db") == f"sqlite:///{tmp_path}/here/runs.db"
    assert artifact_root(default_store_uri()) == f"file://{ROOT}/mlruns/artifacts"
    assert artifact_root("http://server:5000") is None


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///runs", "sqlite:///", "sqlite:///:memory:", "htp://server"])
def test_an_address_that_is_no_store_is_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^uri: .*use sqlite:///FILE"):
        MlflowUploader(uri)


def test_an_experiment_has_a_name() -> None:
    with pytest.raises(ValueError, match=r"^experiment:"):
        MlflowUploader(None, "")


def test_passwords_are_not_shown() -> None:
    assert hide_credentials("postgresql://me:secret@db:5432/runs") == "postgresql://db:5432/runs"
    assert hide_credentials("sqlite:////data/a@b.db") == "sqlite:////data/a@b.db"
