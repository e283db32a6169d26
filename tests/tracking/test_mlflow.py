"""MLflow holds exactly what metrics.jsonl holds: during the run, after an outage of the server, after a kill."""

import math
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.core.events import RunStart
from harness.observers.figures import FigureWriter
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import MlflowUploader
from harness.record import metrics_file
from harness.tracking.mlflow_client import UploadError, connect_to_store
from harness.tracking.model_upload import upload_folder
from harness.tracking.run_uploader import upload_run
from harness.tracking.store_uri import (
    artifact_root,
    default_store_uri,
    resolve_store_uri,
    restore_credentials,
    sqlite_path,
)
from harness.tracking.upload_cursor import UploadCursor
from harness.tracking.upload_process import UploadProcess
from tests.conftest import drop_announcements
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
EXPECTED_PARAMS = {"optimizer.lr", "constant.uniform", "constant.unigram", *make_effective_settings().to_params()}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return new_store(tmp_path)


def record_run(folder: Path, uri: str, events=None) -> Path:
    """Record a run in `folder` that belongs to the store at `uri` but has not been uploaded."""
    send_events([MetricsWriter()], events or sample_run(folder))
    UploadCursor(uri, "default").save(folder)
    return folder


def test_run_is_in_the_store_when_it_ends(tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a run"
    send_events([MetricsWriter(), FigureWriter(), MlflowUploader(store, "default")], sample_run(folder))
    assert drop_announcements(capsys.readouterr().err) == ""
    _, run = only_run(store)
    assert stored_points(store) == recorded_points(folder)
    assert run.info.run_name == "a run"
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.lr"] == "0.001"
    assert run.data.params["constant.uniform"] == "8.32"
    assert not [name for name in run.data.metrics if name.startswith(("constant", "grad_norm"))]
    assert run.data.params["used.parameters"] == "740352"
    assert run.data.params["used.peak_lr.matrices"] == "0.001"
    tags = run.data.tags
    assert tags["status"] == "completed"
    assert "reason" not in tags
    assert (tags["host"], tags["mlflow.parentRunId"], tags["unit.val/loss"]) == ("here", "p" * 32, "nats/token")
    [dataset] = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("pydoc_qa", "d" * 36)
    artifacts = Path(run.info.artifact_uri.removeprefix("file://"))
    files = sorted(str(path.relative_to(artifacts)) for path in artifacts.rglob("*") if path.is_file())
    figures = [f"figures/{name}.png" for name in ("grad_norm", "loss", "lr")]
    assert files == ["command.txt", "config.yaml", *figures, "metrics.jsonl"]
    assert (artifacts / "metrics.jsonl").read_bytes() == (folder / "metrics.jsonl").read_bytes()


def test_parameters_are_free_of_hydra_keys_and_repetitions(tmp_path: Path, store: str) -> None:
    given = {
        "_target_": "own.Thing", "optimizer": "adamw", "optimizer._target_": "torch.optim.AdamW",
        "optimizer._partial_": "True", "data.source._target_": "own.Poems", "thresholds.clip_fraction": "0.8",
        "observers.diagnosis.thresholds.clip_fraction": "0.8", "observers.mlflow._target_": "harness.Uploader",
    }  # fmt: skip
    events = sample_run(tmp_path / "mine", 5)
    events = [replace(event, params=given) if isinstance(event, RunStart) else event for event in events]
    upload_run(record_run(tmp_path / "mine", store, events))
    shown = {
        key: value for key, value in only_run(store)[1].data.params.items() if not key.startswith(("used.", "const"))
    }
    assert shown == {
        "class": "own.Thing", "optimizer": "adamw", "optimizer.class": "torch.optim.AdamW",
        "data.source.class": "own.Poems", "thresholds.clip_fraction": "0.8",
    }  # fmt: skip


def test_runs_of_one_name_are_told_apart(tmp_path: Path, store: str) -> None:
    for place in ("a", "b"):
        folder = tmp_path / place / "it's mine"
        folder.parent.mkdir()
        record_run(folder, store, sample_run(folder, 5))
        upload_run(folder)
        upload_run(folder)  # changes nothing
    client = connect_to_store(store)
    runs = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    ids = {run.data.tags["harness.record_id"][:6] for run in runs}
    first, second = sorted((run.info.run_name for run in runs), key=len)
    assert (first, second.partition(" #")[0]) == ("it's mine", "it's mine")
    assert second.partition(" #")[2] in ids


def test_folder_is_uploaded_as_an_artifact(tmp_path: Path, store: str) -> None:
    folder, export = record_run(tmp_path / "mine", store), tmp_path / "export"
    (export / "base").mkdir(parents=True)
    for name in ("adapter_config.json", "base/config.json"):
        (export / name).write_text("{}")
    (export / "link").symlink_to(tmp_path / "mlflow.db")
    with pytest.raises(ConfigError, match="mine is not in MLflow yet; upload it with `plateau sync"):
        upload_folder(folder, export, "adapters")
    upload_run(folder)
    _, run = only_run(store)
    assert upload_folder(folder, export, "adapters") == f"runs:/{run.info.run_id}/adapters"
    uploaded = Path(run.info.artifact_uri.removeprefix("file://")) / "adapters"
    files = {str(path.relative_to(uploaded)) for path in uploaded.rglob("*") if path.is_file()}
    assert files == {"adapter_config.json", "base/config.json"}


@pytest.mark.parametrize(
    ("status", "expected"),
    [("pruned", "KILLED"), ("interrupted", "KILLED"), ("diverged", "FAILED"), ("failed", "FAILED")],
)
def test_run_that_did_not_complete_has_its_reason(tmp_path, store, status: str, expected: str) -> None:
    upload_run(record_run(tmp_path / status, store, sample_run(tmp_path / status, 5, status, "some reason")))
    _, run = only_run(store)
    assert run.info.status == expected
    assert (run.data.tags["status"], run.data.tags["reason"]) == (status, "some reason")


def test_resumed_run_links_to_the_run_it_resumes(tmp_path: Path, store: str) -> None:
    links = {"resumed.run": "the old one", "resumed.step": "1500", "resumed.run_id": "r" * 32}
    [start, *rest] = sample_run(tmp_path / "run")
    upload_run(record_run(tmp_path / "run", store, [replace(start, tags={**start.tags, **links}), *rest]))
    _, run = only_run(store)
    page = f"#/experiments/{run.info.experiment_id}/runs/{'r' * 32}"
    assert run.data.tags["mlflow.note.content"] == f"Resumed from step 1500 of [the old one]({page})"


def test_repeated_upload_duplicates_nothing(tmp_path: Path, store: str) -> None:
    folder = record_run(tmp_path / "run", store)
    for _ in range(2):
        assert upload_run(folder).lines > 0
        assert stored_points(store) == recorded_points(folder)
        UploadCursor(store, "default").save(folder)  # as if the cursor had been lost
    assert upload_run(folder).is_complete
    assert upload_run(folder).lines == 0
    assert only_run(store)[1].data.params.keys() == EXPECTED_PARAMS


def test_upload_of_a_run_that_is_still_running(tmp_path: Path, store: str) -> None:
    observer, folder = MetricsWriter(), tmp_path
    observer(run_start(folder, log_every=1))
    observer(step_end(1))
    UploadCursor(store, "default").save(folder)
    first = upload_run(folder)
    assert (first.lines, first.is_complete) == (3, False)
    assert only_run(store)[1].info.status == "RUNNING"
    observer(step_end(2))
    observer(run_end(step=2))
    assert not upload_run(folder).is_complete  # its files may not be complete yet
    observer.close()
    assert upload_run(folder).is_complete
    assert stored_points(store) == recorded_points(folder)
    assert only_run(store)[1].info.status == "FINISHED"


def test_upload_of_nan_and_infinity(tmp_path: Path, store: str) -> None:
    losses = map(step_end, range(1, 4), (math.nan, math.inf, -math.inf))
    events = iter([run_start(tmp_path, 3, 1), *losses, eval_end(3, math.nan, math.inf), run_end("diverged", "nan", 3)])
    folder = record_run(tmp_path, store, events)
    for _ in range(2):
        upload_run(folder)
        assert stored_points(store) == recorded_points(folder)
        UploadCursor(store, "default").save(folder)


def test_upload_of_more_than_one_batch_and_of_a_long_parameter(tmp_path: Path, store: str) -> None:
    params = {**{f"key.{i}": str(i) for i in range(250)}, "data.text": "x" * 7000, "odd [key]": "", "empty": ""}
    start = run_start(tmp_path, 400, 1, params=params)
    messages: list[str] = []
    folder = record_run(tmp_path, store, iter([start, *map(step_end, range(1, 401)), run_end(step=400)]))
    upload_run(folder, messages.append)
    assert messages == ["data.text: MLflow takes 6000 of 7000 characters; config.yaml has the whole value"]
    _, run = only_run(store)
    assert len(params.keys() & run.data.params.keys()) == 252  # MLflow renames one
    assert run.data.params["data.text"] == "x" * 6000
    assert run.data.params["odd _key_"] == ""
    assert stored_points(store) == recorded_points(folder)


def test_upload_waits_for_a_locked_store(tmp_path: Path, store: str) -> None:
    folder = record_run(tmp_path / "run", store)
    other = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN EXCLUSIVE")
    release = threading.Timer(1.0, other.execute, ["COMMIT"])
    release.start()
    assert upload_run(folder).is_complete
    release.join()
    other.close()
    assert stored_points(store) == recorded_points(folder)


def test_concurrent_uploads_create_one_run(tmp_path: Path, store: str) -> None:
    folder = record_run(tmp_path / "run", store)
    both = [threading.Thread(target=upload_run, args=(folder,)) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert stored_points(store) == recorded_points(folder)


KILLED_RUN = """
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


def run_until_killed(*arguments: str) -> None:
    """Record a run in another process that is killed at step 750 of 1000."""
    done = subprocess.run([sys.executable, "-c", KILLED_RUN, *arguments], cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL


def assert_died(store: str, folder: Path) -> None:
    _, run = only_run(store)
    assert run.info.status == "FAILED"
    assert (run.data.tags["status"], run.data.tags["reason"]) == ("failed", "its process died")
    points = stored_points(store)
    assert points == recorded_points(folder)
    assert max(step for _, step, _, _ in points) == 750
    assert set(UploadCursor.load(folder).files) >= {"config.yaml", "metrics.jsonl"}


def test_killed_run_is_uploaded_to_its_last_line_by_the_upload_process(tmp_path: Path, store: str) -> None:
    folder = tmp_path / "run"
    run_until_killed(str(folder), store)
    wait_until(lambda: UploadCursor.load(folder).is_complete)
    assert_died(store, folder)


def test_run_killed_with_its_upload_process_is_uploaded_by_sync(
    tmp_path: Path, store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    run_until_killed(str(folder))
    UploadCursor(store, "default").save(folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert_died(store, folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert "nothing to upload" in capsys.readouterr().out
    assert_died(store, folder)


@pytest.fixture
def outage(tmp_path) -> dict:
    """Kill a server during one run, leave it down for a second run, restart it and sync twice."""
    store, port = new_store(tmp_path), free_port()
    server = MlflowServer(store, port, tmp_path / "artifacts")
    patch = pytest.MonkeyPatch()
    patch.setenv("MLFLOW_TRACKING_URI", server.uri)
    halfway, away = tmp_path / "halfway", tmp_path / "away"
    outcome = {"store": store, "halfway": halfway, "away": away}
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
                outcome["before"] = stored_points(store, "halfway")
                server.kill()
        for observer in observers:
            observer.close()
        send_events([MetricsWriter(), MlflowUploader(server.uri, "away")], sample_run(away))
        sys.stderr.seek(0)
        outcome["warnings"] = drop_announcements(sys.stderr.read()).splitlines()
        outcome["while down"] = cli.main(["sync", str(halfway), str(away)])
        server = MlflowServer(store, port, tmp_path / "artifacts")
        outcome["after"] = cli.main(["sync", str(halfway), str(away)])
        outcome["once"] = {name: stored_points(store, name) for name in ("halfway", "away")}
        for folder in (halfway, away):  # the worst case: everything was uploaded, and the cursors were lost
            UploadCursor(server.uri, folder.name).save(folder)
        outcome["again"] = cli.main(["sync", str(halfway), str(away)])
    finally:
        patch.undo()
        server.kill()
    return outcome


def test_sync_after_an_outage_uploads_what_is_missing_once(outage) -> None:
    """One test, because each process of the test session would repeat the outage."""
    assert (outage["while down"], outage["after"], outage["again"]) == (1, 0, 0)
    assert 0 < outage["before"].total() < recorded_points(outage["halfway"]).total()
    assert len(outage["warnings"]) == 4
    for name in ("halfway", "away"):
        expected = recorded_points(outage[name])
        assert outage["once"][name] == expected
        assert stored_points(outage["store"], name) == expected
        _, run = only_run(outage["store"], name)
        assert run.info.status == "FINISHED"
        assert run.data.params.keys() == EXPECTED_PARAMS
        *_, (end, _) = metrics_file.read_entries(outage[name] / metrics_file.METRICS_FILE)
        assert end["status"] == "completed"
        assert sum(f"kept in {outage[name]}" in line for line in outage["warnings"]) == 1
        assert sum(f"plateau sync {outage[name]}" in line for line in outage["warnings"]) == 1


def test_failed_upload_names_the_store_and_the_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    folder = record_run(tmp_path, f"http://user:secret@127.0.0.1:{port}")
    with pytest.raises(UploadError, match=rf"upload to MLflow at http://127.0.0.1:{port} failed: .*refused"):
        upload_run(folder)


def test_missing_metrics_file_is_a_warning(tmp_path, capsys) -> None:
    send_events([MlflowUploader(f"sqlite:///{tmp_path}/mlflow.db")], iter([run_start(tmp_path), run_end()]))
    expected = "warning: no upload to MLflow: it reads metrics.jsonl, which observers.metrics_file writes\n"
    assert capsys.readouterr().err == expected
    assert not list(tmp_path.iterdir())


def test_default_store_does_not_depend_on_the_current_folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_store_uri() == f"sqlite:///{ROOT}/mlflow.db"
    assert resolve_store_uri(None) == default_store_uri()
    assert resolve_store_uri("sqlite:///here/runs.db") == f"sqlite:///{tmp_path}/here/runs.db"
    assert artifact_root(default_store_uri()) == f"file://{ROOT}/mlruns/artifacts"
    assert artifact_root("http://server:5000") is None


@pytest.mark.parametrize("uri", ["", "mlruns", "file:///runs", "sqlite:///", "sqlite:///:memory:", "htp://server"])
def test_addresses_that_are_not_stores_are_rejected(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^uri: .*use sqlite:///FILE"):
        MlflowUploader(uri)


def test_empty_experiment_name_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"^experiment:"):
        MlflowUploader(None, "")


def test_credentials_come_from_the_environment(tmp_path, monkeypatch) -> None:
    whole = "http://me:p@ss/word@server:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", whole)
    UploadCursor(whole, "default").save(tmp_path)
    stored = UploadCursor.load(tmp_path).uri
    assert stored == "http://server:5000"
    assert restore_credentials(stored) == whole
    assert restore_credentials("http://elsewhere:5000") == "http://elsewhere:5000"


def test_sqlite_address_with_options(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    uri = resolve_store_uri("sqlite:///runs.db?timeout=60&password=a/b")
    assert uri == f"sqlite:///{tmp_path}/runs.db?timeout=60&password=a/b"
    assert sqlite_path(uri) == tmp_path / "runs.db"


def test_ctrl_c_while_the_upload_is_awaited_loses_nothing(tmp_path: Path, store: str) -> None:
    """The store accepts connections and never answers."""
    folder = tmp_path / "run"
    with socket.create_server(("127.0.0.1", 0)) as silent:
        send_events([MetricsWriter()], sample_run(folder))
        UploadCursor(f"http://127.0.0.1:{silent.getsockname()[1]}", "default").save(folder)
        upload = UploadProcess(folder, UploadCursor.load(folder).uri)
        try:
            threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
            command = rf"MLFLOW_TRACKING_URI=http://127.0.0.1:\d+ plateau sync {folder}"
            with pytest.raises(KeyboardInterrupt, match=f"upload .* in the background; complete it with {command}$"):
                upload.close()
        finally:
            upload._process.kill()
    UploadCursor(store, "default").save(folder)
    assert cli.main(["sync", str(folder)]) == 0
    assert stored_points(store) == recorded_points(folder)
