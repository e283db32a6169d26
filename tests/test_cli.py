"""`plateau` as a shell starts it."""

import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from harness import cli
from tests.tracking.stores import free_port, is_port_open, new_store

ROOT = Path(__file__).parents[1]


def test_a_folder_that_is_no_run_is_named_with_exit_status_2(tmp_path, capsys) -> None:
    assert cli.main(["sync", str(tmp_path / "absent")]) == 2
    assert cli.main(["sync", str(tmp_path)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first
        == f"{tmp_path}/absent: not the folder of a run or a sweep: it contains no metrics.jsonl of a run or sweep.json of a sweep"
    )
    assert str(tmp_path) in second
    assert not list(tmp_path.iterdir())


def test_no_runs_yet_says_how_to_make_one(tmp_path, capsys) -> None:
    assert cli.main(["ui", "--uri", f"sqlite:///{tmp_path}/mlflow.db"]) == 2
    assert "python run.py optimizer=adamw schedule=cosine" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--uri", "mlruns"], "--uri: 'mlruns' is not a tracking store"),
        (["--uri", "http://elsewhere:5000"], "http://elsewhere:5000 is a server that has its own UI"),
        (["--port", "70000"], "--port 70000"),
        (["--host", "192.0.2.1"], "--host 192.0.2.1"),  # reserved for documentation: no machine has it
    ],
)
def test_an_address_that_cannot_be_served_is_named_with_exit_status_2(options: list[str], said: str, capsys) -> None:
    assert cli.main(["ui", *options]) == 2
    assert said in capsys.readouterr().err


def test_the_ui_takes_the_next_port_where_one_is_busy_and_leaves_nothing_behind(tmp_path) -> None:
    store = new_store(tmp_path)
    with socket.create_server(("127.0.0.1", free_port())) as busy:
        port = busy.getsockname()[1]
        command = [sys.executable, "-m", "harness", "ui", "--uri", store, "--port", str(port)]
        served = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert served.stdout.readline().startswith(f"port {port} is busy; using ")
        address = served.stdout.readline().split(": ", 1)[1].split()[0]
        with urllib.request.urlopen(address, timeout=20) as page:
            assert b"MLflow" in page.read()
        served.send_signal(signal.SIGINT)
        assert served.wait(timeout=20) == 0
        assert served.stdout.read() == ""  # its end: nobody holds the other side any more
    assert not is_port_open(int(address.rpartition(":")[2]))
