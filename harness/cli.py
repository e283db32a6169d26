"""`python -m harness`: what is done with runs after they were made."""

import argparse
import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.observers import parent, record
from harness.observers.client import UploadFailed
from harness.observers.follow import uploader
from harness.observers.store import artifact_root, shown, sqlite_file, store_uri

PORTS = 100
SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no processes of its own for a page that shows runs
}


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for what may work later, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    ui_parser = commands.add_parser("ui", help="serve the MLflow UI over the recorded runs")
    ui_parser.add_argument("--host", default="127.0.0.1")
    ui_parser.add_argument("--port", type=int, default=5000, help="the first to try")
    ui_parser.add_argument("--uri", help="another store than mlruns/mlflow.db of the project")
    ui_parser.set_defaults(command=lambda args: ui(args.host, args.port, args.uri))

    sync_parser = commands.add_parser("sync", help="upload to MLflow what it lacks of runs and sweeps")
    sync_parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    sync_parser.set_defaults(command=lambda args: max(sync(folder) for folder in args.folders))

    args = parser.parse_args(arguments)
    return args.command(args)


def sync(folder: Path) -> int:
    """Upload what MLflow lacks of the run or the sweep in `folder` and say what that was."""
    if not (folder / record.NAME).is_file() and not parent.is_sweep(folder):
        return _refuse(f"{folder} is no run folder: it holds no {record.NAME}, and no {parent.IDENTITY} of a sweep", 2)
    try:
        done = uploader(folder)()
    except UploadFailed as error:
        return _refuse(f"{folder}: {error}; what it has is kept, try again later", 1)
    brought = f"{done.lines} lines and {done.files} files went to" if done.lines or done.files else "nothing missing in"
    print(f"{folder}: {brought} {done.uri}{'' if done.is_complete else '; it still goes on'}")
    return 0


def ui(host: str, port: int, uri: str | None) -> int:
    """Serve the MLflow UI until Ctrl-C, on the first free port from `port` on."""
    try:
        uri = store_uri(uri)
        free = _free_port(host, port)
    except ValueError as error:
        return _refuse(f"--{error}", 2)
    if uri.startswith(("http", "databricks")):
        return _refuse(f"--uri: {shown(uri)} is a server with a UI of its own; open that in a browser", 2)
    file = sqlite_file(uri)
    if file and not file.exists():
        return _refuse(f"there are no runs in {file} yet; make one: python run.py optimizer=adamw schedule=cosine", 2)
    if free != port:
        print(f"port {port} is busy; taking {free}", flush=True)
    return _serve(host, free, uri)


def _serve(host: str, port: int, uri: str) -> int:
    """Run the server as a child that does not outlive us; its exit status, 0 where we ended it."""
    options = {
        "--backend-store-uri": uri,
        "--registry-store-uri": uri,
        "--artifacts-destination": artifact_root(uri),
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *(word for option in options.items() for word in option)],
        env={**SERVER_ENVIRONMENT, **os.environ},
        process_group=0,  # Ctrl-C reaches it through us, and one signal reaches all that it starts
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: server.terminate())
    try:
        if _answers(server, host, port):
            print(f"MLflow UI of {shown(uri)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        return max(0, server.wait())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _answers(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server takes connections; False where it ends before."""
    while server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens on; ValueError where there is none or the host is not ours."""
    for candidate in range(port, port + PORTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ValueError(f"host {host} --port {candidate}: {error}") from error
    raise ValueError(f"port {port}: it is busy, and so are the {PORTS - 1} after it; choose another")


def _refuse(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
