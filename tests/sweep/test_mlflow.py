"""In MLflow a sweep is one parent run with its trials nested under it, whoever ran it and whatever died."""

import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from harness import cli
from harness.core.events import Event, RunStart
from harness.core.files import FileLock
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import DeferredMlflowUpload
from harness.record import metrics_file
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import UploadCursor
from harness.tracking.sweep_uploader import SweepUploader
from harness.tracking.upload_process import UploadProcess
from tests.conftest import ROOT, run_main
from tests.observers.sample_events import sample_run, send_events
from tests.run.test_run import SMOKE
from tests.tracking.stores import free_port, new_store, wait_until

SWEEP = "5" * 32


@pytest.fixture
def store(tmp_path) -> str:
    return new_store(tmp_path)


def new_sweep(folder: Path, uri: str, **params: str) -> Path:
    """A sweep's folder as its coordinator begins it."""
    folder.mkdir(exist_ok=True)
    begun = {"id": SWEEP, "name": "lora", "uri": uri, "experiment": "default", "started_at_ms": 1_000}
    asked = {"space.optimizer.lr": "tag(log, interval(3e-4, 1e-1))", **params}
    metrics_file.write_json(folder / "sweep.json", {**begun, "params": asked, "tags": {"command": "python run.py -m"}})
    return folder


def trial_events(folder: Path, status: str = "completed") -> Iterator[Event]:
    for event in sample_run(folder, 20, status, "" if status == "completed" else "so it was"):
        yield replace(event, tags={"harness.sweep": SWEEP}) if isinstance(event, RunStart) else event


def run_trial(sweep: Path, number: int, uri: str, status: str = "completed") -> Path:
    send_events([DeferredMlflowUpload(uri), MetricsWriter()], trial_events(sweep / str(number), status))
    return sweep / str(number)


def summarise(sweep: Path, losses: list[float], status: str = "running") -> None:
    """summary.json once the trials of these losses are over."""
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


def runs(uri: str) -> dict[str, Run]:
    """All runs of the experiment by name, which must differ."""
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("default").experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def points(uri: str, run: Run, metric: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.info.run_id, metric))


def artifacts(uri: str, run: Run) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"))


def assert_whole(uri: str, losses: list[float]) -> None:
    """The parent and its trials, each fact once."""
    found = runs(uri)
    lora = found.pop("lora")
    assert sorted(found) == [str(number) for number in range(len(losses))]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {lora.info.run_id}
    assert points(uri, lora, "sweep/val_loss") == list(enumerate(losses))
    for run in found.values():
        assert len(points(uri, run, "val/loss")) == 3
        assert run.info.status != "RUNNING"


def test_a_sweep_is_a_parent_run_that_grows_with_its_trials_and_ends_with_their_sum(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    lock, bring = sweep_uploader.mark_sweep_running(sweep), SweepUploader(sweep)
    assert not bring().is_complete
    assert runs(store)["lora"].info.status == "RUNNING"
    run_trial(sweep, 0, store)
    summarise(sweep, [3.5])
    bring()
    run_trial(sweep, 1, store, "diverged")
    run_trial(sweep, 2, store, "pruned")
    summarise(sweep, [3.5, 4.0, 3.0], "completed")
    (sweep / "optimization_results.yaml").write_text("name: optuna\n")
    lock.release()
    assert bring().is_complete
    assert_whole(store, [3.5, 4.0, 3.0])
    found = runs(store)
    lora = found["lora"]
    assert (lora.info.status, lora.info.start_time, lora.info.end_time) == ("FINISHED", 1_000, 90_000)
    assert lora.data.params == {"space.optimizer.lr": "tag(log, interval(3e-4, 1e-1))"}
    assert lora.data.metrics["sweep/tokens"] == 6000
    assert points(store, lora, "sweep/best_val_loss") == [(0, 3.5), (1, 3.5), (2, 3.0)]
    assert lora.data.metrics["sweep/trials.queued"] == 0  # the last, though smaller than those before
    tags, best = lora.data.tags, found["2"].info
    assert (tags["status"], tags["best_trial"], tags["best_run_id"]) == ("completed", "2", best.run_id)
    assert f"#/experiments/{best.experiment_id}/runs/{best.run_id}" in tags["mlflow.note.content"]
    assert tags["mlflow.source.name"] == "python run.py -m"
    assert (artifacts(store, lora) / "optimization_results.yaml").read_text() == "name: optuna\n"
    assert [found[name].info.status for name in "012"] == ["FINISHED", "FAILED", "KILLED"]


def test_what_is_uploaded_again_is_there_once_and_a_complete_trial_is_not_looked_at_again(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    trial = run_trial(sweep, 0, store)
    summarise(sweep, [3.5], "completed")
    bring = SweepUploader(sweep)
    bring()
    (trial / "mlflow.json").unlink()
    again = bring()
    assert (again.lines, again.files, again.is_complete) == (0, 0, True)
    assert not (trial / "mlflow.json").exists()
    (sweep / "mlflow.json").unlink()  # as if nothing had been noted of all that was taken
    assert cli.main(["sync", str(sweep)]) == 0
    assert_whole(store, [3.5])


def test_a_resumed_sweep_runs_again_and_what_was_asked_anew_is_a_tag(tmp_path, store, capsys) -> None:
    sweep = new_sweep(tmp_path / "lora", store, n_trials="1")
    run_trial(sweep, 0, store)
    summarise(sweep, [3.5], "interrupted")
    (sweep / "figures").mkdir()
    (sweep / "figures" / "history.png").write_bytes(b"one trial")
    assert cli.main(["sync", str(sweep)]) == 0
    assert runs(store)["lora"].info.status == "KILLED"
    new_sweep(sweep, store, n_trials="2", n_jobs="1")
    lock = sweep_uploader.mark_sweep_running(sweep)
    SweepUploader(sweep)()
    assert runs(store)["lora"].info.status == "RUNNING"
    lock.release()
    run_trial(sweep, 1, store)
    summarise(sweep, [3.5, 3.0], "completed")
    (sweep / "figures" / "history.png").write_bytes(b"two trials")
    assert cli.main(["sync", str(sweep)]) == 0
    assert_whole(store, [3.5, 3.0])
    lora = runs(store)["lora"]
    assert lora.info.status == "FINISHED"
    assert (lora.data.params["n_trials"], lora.data.tags["n_trials"], lora.data.params["n_jobs"]) == ("1", "2", "1")
    assert (artifacts(store, lora) / "figures" / "history.png").read_bytes() == b"two trials"
    assert cli.main(["sync", str(sweep)]) == 0
    assert "nothing to upload" in capsys.readouterr().out.splitlines()[-1]


def test_a_sweep_that_was_killed_is_told_so_until_it_is_resumed(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    run_trial(sweep, 0, store)
    summarise(sweep, [3.5])
    assert cli.main(["sync", str(sweep)]) == 0
    lora = runs(store)["lora"]
    assert lora.info.status == "FAILED"
    assert (lora.data.tags["status"], lora.data.tags["reason"]) == ("failed", "its process died")
    summarise(sweep, [3.5], "completed")
    assert cli.main(["sync", str(sweep)]) == 0
    lora = runs(store)["lora"]
    assert (lora.info.status, lora.data.tags["status"], lora.data.tags["reason"]) == ("FINISHED", "completed", "")


def test_a_trial_that_was_brought_over_alone_is_nested_once_its_sweep_is_there(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    alone, later = run_trial(sweep, 0, store), run_trial(sweep, 1, store)
    assert cli.main(["sync", str(alone), str(later)]) == 0
    assert list(runs(store)) == ["1", "0"]
    assert "mlflow.parentRunId" not in runs(store)["0"].data.tags
    (sweep / "1").rename(tmp_path / "elsewhere")
    summarise(sweep, [3.5], "completed")
    assert cli.main(["sync", str(sweep)]) == 0
    assert cli.main(["sync", str(tmp_path / "elsewhere")]) == 0
    found = runs(store)
    assert {found[name].data.tags["mlflow.parentRunId"] for name in "01"} == {found["lora"].info.run_id}


def test_a_trial_whose_worker_died_at_once_holds_nothing_up(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    (sweep / "0").mkdir()
    (sweep / "0" / "metrics.jsonl").write_text('{"kind": "start", "na')
    run_trial(sweep, 1, store)
    summarise(sweep, [3.5], "completed")
    assert SweepUploader(sweep)().is_complete
    assert set(runs(store)) == {"lora", "1"}


def test_a_record_that_cannot_be_read_does_not_keep_other_trials_from_the_store(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    (sweep / "0").mkdir()
    (sweep / "0" / "metrics.jsonl").write_text("no record\n")
    run_trial(sweep, 1, store)
    with pytest.raises(UploadError, match=r"0/metrics\.jsonl: not a JSON object at byte 0"):
        SweepUploader(sweep)()
    assert runs(store)["1"].info.status == "FINISHED"


def test_a_sweep_is_whole_after_its_uploader_was_killed_and_its_coordinator_too(tmp_path, store) -> None:
    sweep = new_sweep(tmp_path / "lora", store)
    losses = [4.0, 3.5, 3.0, 3.2]
    for number in range(len(losses)):
        run_trial(sweep, number, store)
    summarise(sweep, losses)
    command = [sys.executable, "-m", "harness.tracking.upload_process", str(sweep)]
    with FileLock(sweep / "2" / "mlflow.lock"):  # it comes so far and waits
        uploading = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        wait_until(lambda: UploadCursor.load(sweep / "1").is_complete)
        uploading.kill()
        uploading.communicate()
    assert set(runs(store)) == {"lora", "0", "1"}
    uploading = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    uploading.communicate()  # its stdin ends as that of a coordinator that was killed
    assert uploading.returncode == 0
    assert_whole(store, losses)
    assert runs(store)["lora"].info.status == "FAILED"


def test_a_sweep_without_its_server_is_told_once_and_brought_over_later(tmp_path, store, capsys) -> None:
    sweep = new_sweep(tmp_path / "lora", f"http://127.0.0.1:{free_port()}")
    beside = UploadProcess(sweep)
    run_trial(sweep, 0, store)
    time.sleep(0.1)
    summarise(sweep, [3.5], "completed")
    beside.close()
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert "upload to MLflow at" in warnings[0]
    assert f"kept in {sweep}" in warnings[0]
    assert warnings[1].endswith(f"python -m harness sync {sweep}")
    new_sweep(sweep, store)
    assert cli.main(["sync", str(sweep)]) == 0
    assert_whole(store, [3.5])


STOCK = ["hydra.sweeper.params=null", *SMOKE, "loop.max_steps=2"]


def test_the_stock_sweepers_runs_are_nested_and_one_that_diverges_does_not_end_the_sweep(
    places, tmp_path, store, monkeypatch
) -> None:
    sampler = ["hydra/sweeper/sampler=random", "hydra.sweeper.sampler.seed=1"]
    counts = ["hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"]
    space = ["optimizer=sgd", "loop.grad_clip=null", "optimizer.lr=tag(log,interval(1e-1,1e13))"]
    chosen = [*sampler, *counts, *STOCK, *places, "observers=trial", *space]
    assert run_main(monkeypatch, "-m", "hydra/sweeper=optuna", *chosen) == 0
    [folder] = (tmp_path / "outputs" / "sweeps").iterdir()
    found = runs(store)
    sweep = found.pop(folder.name)
    assert sorted(found) == ["0", "1", "2"]
    assert {run.data.tags["mlflow.parentRunId"] for run in found.values()} == {sweep.info.run_id}
    assert [found[name].data.tags["status"] for name in "012"] == ["diverged", "diverged", "completed"]
    assert (sweep.info.status, sweep.data.tags["best_trial"]) == ("FINISHED", "2")
    assert sweep.data.tags["best.optimizer.lr"] == found["2"].data.params["optimizer.lr"]
    asked = {"sweeper": "optuna", "n_trials": "3", "n_jobs": "1", "space.optimizer.lr": "tag(log,interval(1e-1,1e13))"}
    assert sweep.data.params == asked
    assert (sweep.data.metrics["sweep/trials.diverged"], sweep.data.metrics["sweep/trials.completed"]) == (2, 1)
    assert (artifacts("", sweep) / "optimization_results.yaml").is_file()


def test_a_sweep_whose_first_run_is_refused_says_so_once_and_leaves_no_record(
    places, tmp_path, monkeypatch, capsys
) -> None:
    assert run_main(monkeypatch, "-m", "hydra/sweeper=basic", *STOCK, *places, "optimizer.lr=-1,1e-3") == 2
    said = capsys.readouterr().err
    assert said.splitlines()[-1] == "optimizer.lr: -1 must be above 0"
    assert "Traceback" not in said
    assert not (tmp_path / "mlflow.db").exists()
    assert not list((tmp_path / "outputs" / "sweeps").glob("*/sweep.json"))
