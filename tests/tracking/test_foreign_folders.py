"""`plateau sync` of somebody else's folder sends no credentials, private files or changes to where it says."""

from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import ConfigError
from harness.observers.metrics_writer import MetricsWriter
from harness.record import metrics_file
from harness.tracking.run_uploader import upload_run
from harness.tracking.store_uri import check_recorded_uri, default_store_uri
from harness.tracking.sweep_uploader import SweepUploader
from harness.tracking.upload_cursor import UploadCursor
from tests.observers.sample_events import sample_run, send_events
from tests.tracking.stores import free_port, new_store, only_run
from tests.tracking.test_sweep_uploader import read_runs, run_trial, write_summary_json, write_sweep_json

SECRET = "a private key"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the address of the user's store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", new_store(tmp_path))
    return new_store(tmp_path)


@pytest.fixture
def run_folder(tmp_path: Path, store: str) -> Path:
    """Return the folder of a run that has not been uploaded."""
    folder = tmp_path / "run"
    send_events([MetricsWriter()], sample_run(folder))
    UploadCursor(store, "default").save(folder)
    return folder


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a folder with a private file under each name that is uploaded."""
    folder = tmp_path / "private"
    folder.mkdir()
    for name in ("id_rsa", "x.png", "x.txt", "x.yaml"):
        (folder / name).write_text(SECRET)
    return folder


def list_uploaded(tmp_path: Path) -> list[str]:
    """Return the names of the files in the store; none of them holds the secret."""
    files = [path for path in (tmp_path / "mlruns" / "artifacts").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    return sorted(path.name for path in files)


def set_artifacts(folder: Path, names: list[str]) -> None:
    """Rewrite the end of a record as its author could."""
    path = folder / metrics_file.METRICS_FILE
    *lines, _ = path.read_bytes().splitlines(keepends=True)
    *_, (end, _) = metrics_file.read_entries(path)
    path.write_bytes(b"".join(lines) + metrics_file.encode_entry({**end, "artifacts": names}))


def test_only_files_of_the_run_are_uploaded(tmp_path, run_folder, private, capsys) -> None:
    (run_folder / "figures").mkdir()
    (run_folder / "figures" / "x.png").symlink_to(private / "x.png")
    (run_folder / "link.txt").symlink_to(private / "x.txt")
    (run_folder / "linked").symlink_to(private)
    names = [str(private / "id_rsa"), "../private/id_rsa", "link.txt", "linked/id_rsa", "figures/../../private/id_rsa"]
    set_artifacts(run_folder, ["command.txt", *names])
    assert cli.main(["sync", str(run_folder)]) == 0
    assert list_uploaded(tmp_path) == ["command.txt", "metrics.jsonl"]
    printed = capsys.readouterr().out
    for name in [*names, "figures/x.png"]:
        assert f"{run_folder / name}: not uploaded, because it is a link or no file of {run_folder}" in printed


def test_links_in_the_folder_of_a_run_that_died_are_not_uploaded(tmp_path, run_folder, private) -> None:
    path = run_folder / metrics_file.METRICS_FILE
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:-1]))
    (run_folder / "x.txt").symlink_to(private / "x.txt")
    (run_folder / "x.yaml").symlink_to(private / "x.yaml")
    upload_run(run_folder, lambda text: None)
    assert list_uploaded(tmp_path) == ["command.txt", "config.yaml", "metrics.jsonl"]


def test_linked_figures_are_not_uploaded(tmp_path, run_folder, private) -> None:
    (run_folder / "figures").symlink_to(private)
    upload_run(run_folder, lambda text: None)
    assert list_uploaded(tmp_path) == ["command.txt", "config.yaml", "metrics.jsonl"]


def test_folder_that_is_reached_through_a_link_is_uploaded(tmp_path, run_folder) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    assert cli.main(["sync", str(tmp_path / "link" / "run")]) == 0
    assert list_uploaded(tmp_path) == ["command.txt", "config.yaml", "metrics.jsonl"]


def test_links_in_the_folder_of_a_sweep_are_not_uploaded(tmp_path, store, private) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    run_trial(tmp_path / "private", 0, store)
    (sweep / "0").symlink_to(tmp_path / "private" / "0")
    (sweep / "sweep.yaml").symlink_to(private / "x.yaml")
    (sweep / "figures").symlink_to(private)
    write_summary_json(sweep, [3.5], "completed")
    messages: list[str] = []
    assert SweepUploader(sweep, messages.append)().is_complete
    assert list_uploaded(tmp_path) == []
    assert len(messages) == 2
    assert read_runs(store).keys() == {"lora"}


def test_recorded_store_of_somebody_else_is_refused(tmp_path, run_folder, monkeypatch, capsys) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    sweep = tmp_path / "sweep"
    for uri in (f"http://127.0.0.1:{free_port()}", f"sqlite:///{tmp_path}/new/mlflow.db", f"sqlite:///{tmp_path}/x.db"):
        UploadCursor(uri, "default").save(run_folder)
        write_sweep_json(sweep, uri)
        for folder, file in ((run_folder, "mlflow.json"), (sweep, "sweep.json")):
            assert cli.main(["sync", str(folder)]) == 2
            problem = (
                f"{file}: uri: {uri}: not your tracking store; set MLFLOW_TRACKING_URI to it to upload there; runs go"
            )
            assert capsys.readouterr().err.startswith(
                f"{folder}: {problem} only to the store that they were recorded for"
            )
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "x.db").exists()


def test_recorded_store_of_a_trial_is_checked_too(tmp_path, store) -> None:
    sweep = write_sweep_json(tmp_path / "lora", store)
    run_trial(sweep, 0, f"http://127.0.0.1:{free_port()}")
    with pytest.raises(ConfigError, match=r"^mlflow.json: uri: http://127.0.0.1:\d+: not your tracking store"):
        SweepUploader(sweep)()


def test_stores_of_the_user(tmp_path, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    check_recorded_uri(default_store_uri(), "mlflow.json")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@host/?token=t")
    check_recorded_uri("https://host/?token=***", "mlflow.json")
    for uri in ("https://host.org/?token=***", "http://host/?token=***", ""):
        with pytest.raises(ConfigError, match="not your tracking store"):
            check_recorded_uri(uri, "mlflow.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mine.db")
    check_recorded_uri(f"sqlite:///{tmp_path}/mine.db", "mlflow.json")


def test_store_that_the_configuration_of_the_project_names_is_used(tmp_path, run_folder, store, monkeypatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    (tmp_path / "config.yaml").write_text("tracking:\n  uri: ${oc.env:STORE}\n")
    monkeypatch.setenv("STORE", store)
    monkeypatch.setattr("harness.tracking.store_uri.config_dir", lambda: tmp_path)
    assert cli.main(["sync", str(run_folder)]) == 0
    monkeypatch.delenv("MLFLOW_TRACKING_URI")  # set by the command, for its process
    assert only_run(store)[1].info.status == "FINISHED"
