"""Upload of a sweep to MLflow: one parent run with its trials nested under it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from harness import cli
from harness.core.errors import DamageError
from harness.core.events import Event, RunStart
from harness.core.files import FileLock
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import DeferredMlflowUpload
from harness.record import metrics_file
from harness.tracking import sweep_uploader
from harness.tracking.sweep_uploader import SweepUploader
from harness.tracking.upload_cursor import UploadCursor
from harness.tracking.upload_process import UploadProcess
from tests.conftest import ROOT
from tests.observers.sample_events import sample_run, send_events
from tests.tracking.stores import free_port, new_store, wait_until

SWEEP = "5" * 32


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return new_store(tmp_path)


def write_sweep_json(folder: Path, uri: str, **params: str) -> Path:
    """Create the folder of a sweep as its coordinator does."""
    folder.mkdir(exist_ok=True)
    begun = {"id": SWEEP, "name": "lora", "uri": uri, "experiment": "default", "started_at_ms": 1_000}
    asked = {"space.optimizer.lr": "tag(log, interval(3e-4, 1e-1))", **params}
    metrics_file.write_json(
        folder / "sweep.json", {**begun, "params": asked, "tags": {"command": "python run.py -m", "user": "ada"}}
    )
    return folder


def make_trial_events(folder: Path, status: str = "completed") -> Iterator[Event]:
    for event in sample_run(folder, 20, status, "" if status == "completed" else "the reason"):
        yield replace(event, tags={"harness.sweep": SWEEP, "study": "lora"}) if isinstance(event, RunStart) else event


def run_trial(sweep: Path, number: int, uri: str, status: str = "completed") -> Path:
    send_events([DeferredMlflowUpload(uri), MetricsWriter()], make_trial_events(sweep / str(number), status))
    return sweep / str(number)


def write_summary_json(sweep: Path, losses: list[float], status: str = "running") -> None:
    """Write summary.json of a sweep whose trials ended with these losses."""
    best = losses.index(min(losses))
    metrics_file.write_json(
        sweep / "summary.json",
        {
            "status": status,
            "ended_at_ms": None if status == "running" else 90_000,
            "metrics": {
                "sweep/tokens": 2000 * len(losses),
                "sweep/best_val_loss": min(losses),
                "sweep/trials.queued": max(0, 3 - len(losses)),
            },
            "tags": {"best_trial": str(best)},
            "history": [
                [number, {"sweep/val_loss": loss, "sweep/best_val_loss": min(losses[: number + 1])}, 10_000 + number]
                for number, loss in enumerate(losses)
            ],
        },
    )


def read_runs(uri: str) -> dict[str, Run]:
    """Return all runs of the experiment by their names, which must be unique; trials by their numbers."""
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name.removeprefix("lora/").removesuffix(" adamw 1e-3"): run for run in found}


def read_metric(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.info.run_id, metric))


def artifact_dir(run: Run) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def check_complete_sweep(uri: str, losses: list[float]) -> None:
    """Check the parent run and its trials, with every value recorded once."""
    found = read_runs(uri)
    lora = found.pop("lora")
    assert sorted(found) == [str(number) for number in range(len(losses))]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {lora.info.run_id}
    assert read_metric(uri, lora, "sweep/val_loss") == list(enumerate(losses))
    for run in found.values():
        assert len(read_metric(uri, run, "val/loss")) == 3
        assert run.info.status != "RUNNING"


def test_parent_run_grows_with_its_trials(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    lock, bring = sweep_uploader.mark_sweep_running(sweep), SweepUploader(sweep)
    assert not bring().is_complete
    assert read_runs(store)["lora"].info.status == "RUNNING"
    run_trial(sweep, 0, store)
    write_summary_json(sweep, [3.5])
    bring()
    run_trial(sweep, 1, store, "diverged")
    run_trial(sweep, 2, store, "pruned")
    write_summary_json(sweep, [3.5, 4.0, 3.0], "completed")
    (sweep / "optimization_results.yaml").write_text("name: optuna\n")
    lock.release()
    assert bring().is_complete
    check_complete_sweep(store, [3.5, 4.0, 3.0])
    found = read_runs(store)
    lora = found["lora"]
    assert (lora.info.status, lora.info.start_time, lora.info.end_time) == ("FINISHED", 1_000, 90_000)
    assert lora.data.params == {"space.optimizer.lr": "tag(log, interval(3e-4, 1e-1))"}
    assert lora.data.metrics["sweep/tokens"] == 6000
    assert read_metric(store, lora, "sweep/best_val_loss") == [(0, 3.5), (1, 3.5), (2, 3.0)]
    assert lora.data.metrics["sweep/trials.queued"] == 0  # the last value, although smaller than earlier ones
    tags, best = lora.data.tags, found["2"].info
    assert (tags["status"], tags["best_trial"], tags["best_run_id"]) == ("completed", "2", best.run_id)
    assert best.run_name == "lora/2 adamw 1e-3"
    assert [found[name].data.tags["trial"] for name in "012"] == ["0", "1", "2"]
    assert {found[name].data.tags["study"] for name in "012"} == {"lora"}
    assert (lora.info.user_id, tags["mlflow.user"]) == ("ada", "ada")
    link, ranking = f"#/experiments/{best.experiment_id}/runs/{best.run_id}", tags["mlflow.note.content"].splitlines()
    assert ranking[4] == f"| [lora/2 adamw 1e-3]({link}) | 3.000 |"
    assert [line.split("|")[2].strip() for line in ranking[4:]] == ["3.000", "3.500", "4.000"]
    compared = unquote(ranking[0].partition("(")[2].partition(")")[0])
    assert compared.startswith(f'#/compare-runs?runs=["{best.run_id}","{found["0"].info.run_id}"')
    assert lora.data.metrics["val/best_loss"] == 3.0
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("python run.py -m", "JOB")
    assert (artifact_dir(lora) / "optimization_results.yaml").read_text() == "name: optuna\n"
    assert [found[name].info.status for name in "012"] == ["FINISHED", "FAILED", "KILLED"]


def test_upload_is_idempotent(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    trial = run_trial(sweep, 0, store)
    write_summary_json(sweep, [3.5], "completed")
    bring = SweepUploader(sweep)
    bring()
    (trial / "mlflow.json").unlink()
    again = bring()
    assert (again.lines, again.files, again.is_complete) == (0, 0, True)
    assert not (trial / "mlflow.json").exists()
    (sweep / "mlflow.json").unlink()  # as if the upload had not been noted
    assert cli.main(["sync", str(sweep)]) == 0
    check_complete_sweep(store, [3.5])


def test_resumed_sweep(tmp_path, store, capsys) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store, n_trials="1")
    run_trial(sweep, 0, store)
    write_summary_json(sweep, [3.5], "interrupted")
    (sweep / "figures").mkdir()
    (sweep / "figures" / "history.png").write_bytes(b"one trial")
    assert cli.main(["sync", str(sweep)]) == 0
    assert read_runs(store)["lora"].info.status == "KILLED"
    write_sweep_json(sweep, store, n_trials="2", n_jobs="1")
    lock = sweep_uploader.mark_sweep_running(sweep)
    SweepUploader(sweep)()
    assert read_runs(store)["lora"].info.status == "RUNNING"
    lock.release()
    run_trial(sweep, 1, store)
    write_summary_json(sweep, [3.5, 3.0], "completed")
    (sweep / "figures" / "history.png").write_bytes(b"two trials")
    assert cli.main(["sync", str(sweep)]) == 0
    check_complete_sweep(store, [3.5, 3.0])
    lora = read_runs(store)["lora"]
    assert lora.info.status == "FINISHED"
    assert (lora.data.params["n_trials"], lora.data.tags["n_trials"], lora.data.params["n_jobs"]) == ("1", "2", "1")
    assert (artifact_dir(lora) / "figures" / "history.png").read_bytes() == b"two trials"
    assert cli.main(["sync", str(sweep)]) == 0
    assert "nothing to upload" in capsys.readouterr().out.splitlines()[-1]


def test_killed_sweep_is_failed_until_resumed(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    run_trial(sweep, 0, store)
    write_summary_json(sweep, [3.5])
    assert cli.main(["sync", str(sweep)]) == 0
    lora = read_runs(store)["lora"]
    assert lora.info.status == "FAILED"
    assert (lora.data.tags["status"], lora.data.tags["reason"]) == ("failed", "its process died")
    write_summary_json(sweep, [3.5], "completed")
    assert cli.main(["sync", str(sweep)]) == 0
    lora = read_runs(store)["lora"]
    assert (lora.info.status, lora.data.tags["status"], lora.data.tags["reason"]) == ("FINISHED", "completed", "")


def test_trial_uploaded_alone_is_nested_later(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    alone, later = run_trial(sweep, 0, store), run_trial(sweep, 1, store)
    assert cli.main(["sync", str(alone), str(later)]) == 0
    assert list(read_runs(store)) == ["1", "0"]
    assert "mlflow.parentRunId" not in read_runs(store)["0"].data.tags
    (sweep / "1").rename(tmp_path / "elsewhere")
    write_summary_json(sweep, [3.5], "completed")
    assert cli.main(["sync", str(sweep)]) == 0
    assert cli.main(["sync", str(tmp_path / "elsewhere")]) == 0
    found = read_runs(store)
    assert {found[name].data.tags["mlflow.parentRunId"] for name in "01"} == {found["lora"].info.run_id}


def test_trial_with_incomplete_first_line(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    (sweep / "0").mkdir()
    (sweep / "0" / "metrics.jsonl").write_text('{"kind": "start", "na')
    run_trial(sweep, 1, store)
    write_summary_json(sweep, [3.5], "completed")
    assert SweepUploader(sweep)().is_complete
    assert set(read_runs(store)) == {"lora", "1"}


def test_unreadable_record_does_not_block_other_trials(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    (sweep / "0").mkdir()
    (sweep / "0" / "metrics.jsonl").write_text("no record\n")
    run_trial(sweep, 1, store)
    with pytest.raises(DamageError, match=r"0/metrics\.jsonl, line 1: damaged"):
        SweepUploader(sweep)()
    assert read_runs(store)["1"].info.status == "FINISHED"


def test_upload_after_kills_of_uploader_and_coordinator(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    losses = [4.0, 3.5, 3.0, 3.2]
    for number in range(len(losses)):
        run_trial(sweep, number, store)
    write_summary_json(sweep, losses)
    command = [sys.executable, "-m", "harness.tracking.upload_process", str(sweep)]
    with FileLock(sweep / "2" / "mlflow.lock"):  # the uploader stops at this trial
        uploading = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_until(lambda: UploadCursor.load(sweep / "1").is_complete)
        uploading.kill()
        uploading.communicate()
    assert set(read_runs(store)) == {"lora", "0", "1"}
    uploading = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    uploading.communicate()  # a closed stdin means that the coordinator was killed
    assert uploading.returncode == 0
    check_complete_sweep(store, losses)
    assert read_runs(store)["lora"].info.status == "FAILED"


def test_unreachable_server_and_later_sync(tmp_path, store, capsys) -> None:
    address = f"127.0.0.1:{free_port()}"
    sweep = write_sweep_json(tmp_path / "lora", f"http://{address}")
    beside = UploadProcess(sweep, f"http://me:secret@{address}")
    run_trial(sweep, 0, store)
    time.sleep(0.1)
    write_summary_json(sweep, [3.5], "completed")
    beside.close()
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert f"upload to MLflow at http://{address} failed" in warnings[0]
    assert f"kept in {sweep}" in warnings[0]
    assert f"complete it with plateau sync {sweep} and MLFLOW_TRACKING_URI set" in warnings[1]
    write_sweep_json(sweep, store)
    assert cli.main(["sync", str(sweep)]) == 0
    check_complete_sweep(store, [3.5])
