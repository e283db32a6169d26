"""A process that is killed while MLflow creates a SQLite store leaves no store that is broken for good."""

import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from harness import cli
from harness.core.errors import DamageError
from harness.observers.metrics_writer import MetricsWriter
from harness.tracking import sqlite_store, upload_process
from harness.tracking.mlflow_client import connect_to_store
from harness.tracking.sqlite_store import is_creating_store
from harness.tracking.upload_cursor import UploadCursor
from harness.tracking.upload_process import UploadProcess
from tests.observers.sample_events import sample_run, send_events
from tests.tracking.stores import new_store, recorded_points, stored_points, wait_until

ROOT = Path(__file__).parents[2]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that is to be uploaded to a store that does not exist yet."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    send_events([MetricsWriter()], sample_run(tmp_path / "a run", 20))
    UploadCursor(uri, "default").save(tmp_path / "a run")
    return tmp_path / "a run"


def kill_self(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until_killed(function: Callable[[], object]) -> None:
    child = multiprocessing.get_context("fork").Process(target=function)
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL


def kill_mlflow_at_statement(number: int, uri: str) -> None:
    """Let MLflow itself create a store; die after so many statements that change it."""
    import sqlalchemy
    from mlflow import MlflowClient

    statements: list[str] = []

    def count(connection: object, cursor: object, statement: str, *_: object) -> None:
        if not statement.lstrip().startswith(("SELECT", "PRAGMA")):
            statements.append(statement)
        if len(statements) == number:
            kill_self()

    sqlalchemy.event.listen(sqlalchemy.engine.Engine, "after_cursor_execute", count)
    MlflowClient(uri, uri)


def names_beside(file: Path) -> set[str]:
    return {path.name for path in file.parent.glob("mlflow.db*")}


def test_store_whose_creator_was_killed_before_the_rename_is_created_again(run, monkeypatch) -> None:
    file = run.parent / "mlflow.db"
    with monkeypatch.context() as patch:
        patch.setattr(sqlite_store, "_publish_draft", kill_self)
        run_until_killed(lambda: cli.main(["sync", str(run)]))
    assert not file.exists()
    assert len(names_beside(file)) == 2  # the draft and the lock
    assert cli.main(["sync", str(run)]) == 0
    assert names_beside(file) == {"mlflow.db", "mlflow.db.lock"}
    assert stored_points(f"sqlite:///{file}") == recorded_points(run)
    location = connect_to_store(f"sqlite:///{file}").get_experiment("0").artifact_location
    assert location == f"{(run.parent / 'mlruns' / 'artifacts').as_uri()}/0"


@pytest.mark.parametrize("number", [9, 100])
def test_store_that_mlflow_left_half_made_is_named(run, monkeypatch, capsys, number: int) -> None:
    monkeypatch.setattr(sqlite_store, "QUIET_S", 0.2)
    file = run.parent / "mlflow.db"
    run_until_killed(lambda: kill_mlflow_at_statement(number, f"sqlite:///{file}"))
    for _ in range(2):
        assert cli.main(["sync", str(run)]) == 2
        # MLflow logs before it if another test loaded it first
        assert capsys.readouterr().err.splitlines(keepends=True)[-1] == (
            f"{run}: {file}: only half made, because a process was killed while MLflow created it; "
            "move it away and run `plateau sync FOLDER` for each run or sweep\n"
        )


def test_store_with_data_is_never_called_half_made(tmp_path: Path) -> None:
    uri = new_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '0c779009ac13'")  # of MLflow 1.30
    with pytest.raises(Exception, match="mlflow db upgrade"):
        connect_to_store(uri)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("DROP TABLE jobs")
    with pytest.raises(DamageError, match=r"mlflow\.db: only half upgraded, .*; restore a backup of it$"):
        connect_to_store(uri)


def start_sync(run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness", "sync", str(run)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.0, 0.4, 1.0, 2.0, 3.0, 3.5])
def test_sync_that_was_killed_while_it_created_the_store_can_be_repeated(run: Path, delay: float) -> None:
    uri = f"sqlite:///{run.parent}/mlflow.db"
    first = start_sync(run)
    wait_until(lambda: is_creating_store(uri, first.pid))
    time.sleep(delay)
    first.kill()
    first.wait()
    assert cli.main(["sync", str(run)]) == 0
    assert names_beside(run.parent / "mlflow.db") == {"mlflow.db", "mlflow.db.lock"}
    assert stored_points(uri) == recorded_points(run)


@pytest.mark.slow
def test_store_that_another_program_is_creating_is_awaited(run: Path) -> None:
    file = run.parent / "mlflow.db"
    create = "import sys; from mlflow import MlflowClient; MlflowClient(sys.argv[1], sys.argv[1])"
    other = subprocess.Popen([sys.executable, "-c", create, f"sqlite:///{file}"], stderr=subprocess.DEVNULL)
    wait_until(file.exists)
    assert cli.main(["sync", str(run)]) == 0
    assert other.wait() == 0
    assert stored_points(f"sqlite:///{file}") == recorded_points(run)


@pytest.mark.slow
def test_store_that_another_program_created_in_the_meantime_is_kept(run: Path, monkeypatch) -> None:
    file = run.parent / "mlflow.db"
    publish = sqlite_store._publish_draft

    def publish_late(draft: Path, target: Path) -> None:
        new_store(file.parent)
        with closing(sqlite3.connect(file)) as database, database:
            database.execute("UPDATE experiments SET name = 'theirs'")
        publish(draft, target)

    monkeypatch.setattr(sqlite_store, "_publish_draft", publish_late)
    assert cli.main(["sync", str(run)]) == 0
    assert connect_to_store(f"sqlite:///{file}").get_experiment_by_name("theirs")
    assert stored_points(f"sqlite:///{file}") == recorded_points(run)


@pytest.mark.slow
def test_upload_process_that_creates_the_store_is_not_killed(run: Path, monkeypatch, capsys) -> None:
    uri = f"sqlite:///{run.parent}/mlflow.db"
    upload = UploadProcess(run, uri)
    wait_until(lambda: is_creating_store(uri, upload._process.pid))
    monkeypatch.setattr(upload_process, "FINAL_TIMEOUT_S", 0.01)
    upload.close()
    assert capsys.readouterr().err == (
        "warning: the store is still being created, so the upload to MLflow continues in the background; "
        f"complete it with plateau sync {run}\n"
    )
    assert upload._process.wait(60) == 0
    assert stored_points(uri) == recorded_points(run)
