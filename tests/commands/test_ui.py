"""`plateau ui`, also in a real browser."""

import html
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.request import Request

import psutil
import pytest

from harness import cli
from harness.config.compose import compose_config
from harness.observers.metrics_writer import MetricsWriter
from harness.observers.mlflow import MlflowUploader
from harness.run.provenance import current_command
from harness.run.runner import run
from harness.tracking.upload_cursor import UploadCursor
from tests.conftest import ROOT
from tests.observers.sample_events import sample_run, send_events
from tests.run.test_run import SMOKE
from tests.tracking.stores import free_port, is_port_open, new_store, wait_until

CHROMIUM = shutil.which("chromium")
CHROMIUM_OPTIONS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--virtual-time-budget=30000", "--window-size=1800,900",
]  # fmt: skip


def test_store_without_runs_is_rejected_with_a_command_that_records_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ui", "--uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 2
    assert "python run.py optimizer=adamw schedule=cosine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_package_that_is_missing_is_named_with_its_extra(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert cli.main(["ui", "--uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 2
    assert "the package mlflow is not installed; pip install 'plateau-harness[programs]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--uri", "mlruns"], "--uri: 'mlruns' is not a tracking store"),
        (["--uri", "http://elsewhere:5000"], "http://elsewhere:5000 is a server that has its own UI"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),  # reserved for documentation: no machine has it
    ],
)
def test_addresses_that_cannot_be_served_are_rejected(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ui", *options]) == 2
    assert message in capsys.readouterr().err


def start_ui(store: str, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "harness", "ui", "--uri", store, "--port", str(port)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def read_address(server: subprocess.Popen[str]) -> str:
    return next(line.strip() for line in server.stdout if line.startswith("http://"))


def test_busy_port_is_skipped_and_no_process_survives(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    with socket.create_server(("127.0.0.1", free_port())) as busy:
        port = busy.getsockname()[1]
        server = start_ui(store, port)
        assert server.stdout.readline().startswith(f"port {port} is busy; using ")
        assert any("starting the MLflow UI" in line for line in server.stderr)
        address = read_address(server)
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b"MLflow" in page.read()
        children = psutil.Process(server.pid).children(recursive=True)
        assert not any(store in word for child in children for word in child.cmdline())  # other users can read these
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=20) == 128 + signal.SIGINT
        assert server.stdout.read() == ""  # the end of the pipe: no process holds its other side
    assert not is_port_open(int(address.strip("/").rpartition(":")[2]))


def test_database_of_another_version_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = new_store(tmp_path)
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    assert cli.main(["ui", "--uri", store]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"--uri: {store}: Detected out-of-date database schema")


@pytest.mark.slow
@pytest.mark.parametrize("is_recording", [False, True])
def test_two_started_at_once_on_a_new_database_both_serve_it(is_recording: bool, tmp_path: Path) -> None:
    """The database has no tables yet, or a run that is recorded at the same time creates them."""
    store, port = f"sqlite:///{tmp_path}/mlflow.db", free_port()
    recording = None
    if is_recording:
        code = f"from tests.commands.test_ui import record_sample; record_sample('{tmp_path}/run', '{store}')"
        recording = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        wait_until((tmp_path / "mlflow.db").exists)
    else:
        (tmp_path / "mlflow.db").touch()
    servers = [start_ui(store, port) for _ in range(2)]
    try:
        addresses = [read_address(server) for server in servers]
        for address in addresses:
            search = Request(f"{address.partition('#')[0]}api/2.0/mlflow/experiments/search", b'{"max_results": 1}')
            search.add_header("Content-Type", "application/json")
            assert urllib.request.urlopen(search, timeout=20).status == 200
    finally:
        for server in servers:
            server.send_signal(signal.SIGINT)
    assert [server.wait(timeout=20) for server in servers] == [128 + signal.SIGINT] * 2
    assert len(set(addresses)) == 2
    if recording:
        assert recording.communicate(timeout=60)[1] == ""
        assert UploadCursor.load(tmp_path / "run").is_complete


def record_sample(folder: str, store: str) -> None:
    send_events([MetricsWriter(), MlflowUploader(store)], sample_run(Path(folder)))


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium: apt-get install chromium")
def test_browser_shows_a_recorded_run(places: list[str], tmp_path: Path) -> None:
    store = new_store(tmp_path)
    result = run(compose_config([*SMOKE, *places, "loop.max_steps=3"]))
    with start_ui(store, 5870) as server:
        try:
            page = read_address(server)
            browse = [CHROMIUM, *CHROMIUM_OPTIONS, f"--user-data-dir={tmp_path}/profile"]
            shown = subprocess.run([*browse, "--dump-dom", page], capture_output=True, text=True, timeout=90)
        finally:
            server.terminate()
    assert page.endswith("/#/experiments/1/runs?workflowType=machine_learning&viewStateShareKey=plateau")
    date, _, name = result.folder.name.rpartition("_")
    for text in (f"{name} {date}", "val/best_loss", str(result.best_val_loss)[:6], current_command()):
        assert text in html.unescape(shown.stdout)
