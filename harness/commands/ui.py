"""plateau ui: browse the recorded runs in the MLflow UI."""

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from itertools import chain

from harness.commands.arguments import CommandParser
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.core.extras import describe_missing_package
from harness.core.paths import run_command
from harness.core.signals import failure_status, record_signal
from harness.core.terminal import announce
from harness.tracking.mlflow_client import connect_to_store, describe_root_cause
from harness.tracking.runs_page import find_runs_page
from harness.tracking.store_uri import (
    artifact_root,
    default_store_uri,
    find_store_uris,
    restore_credentials,
    sqlite_path,
)

PORT_ATTEMPTS = 100
SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its worker processes are not needed to show runs
}


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(prog="plateau ui", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="if it is busy, the next free one is used")
    parser.add_argument("--uri", help="a store other than mlflow.db of the current folder, or else of the project")
    args = parser.parse_args(arguments)
    return serve_ui(args.host, args.port, args.uri)


def serve_ui(host: str, port: int, uri: str | None) -> int:
    """Serve the MLflow UI on the first free port from `port` until Ctrl-C; return the exit status."""
    try:
        uri = restore_credentials(next(iter(find_store_uris(uri)), default_store_uri()))
        listener = _listen_on_free_port(host, port)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    with listener:
        if uri.startswith(("http", "databricks")):
            raise ConfigError(f"--uri: {hide_credentials(uri)} is a server that has its own UI; open it in a browser")
        file = sqlite_path(uri)
        if file and not file.exists():
            command = " ".join(run_command())
            raise ConfigError(f"no runs in {file} yet; record one with {command} optimizer=adamw schedule=cosine")
        try:
            # creates or completes the tables, which several servers must not do at once
            page = find_runs_page(connect_to_store(uri))
        except Exception as error:  # every backend has its own
            if missing := describe_missing_package(error, "programs"):
                raise ConfigError(f"--uri: {hide_credentials(uri)}: {missing}") from error
            print(f"--uri: {hide_credentials(uri)}: {describe_root_cause(error, uri)}", file=sys.stderr)
            return 1
        free = listener.getsockname()[1]
        if free != port:
            print(f"port {port} is busy; using {free}", flush=True)
        announce("starting the MLflow UI, which takes up to half a minute")
        return _run_server(listener, host, free, uri, page)


def _run_server(listener: socket.socket, host: str, port: int, uri: str, page: str) -> int:
    """Run the server as a child process that ends with this one; return its exit status, or that of the signal.

    It accepts connections on `listener`, which is its standard input: its own child processes inherit no other file.
    Addresses are in its environment, since other users can read command lines.
    """
    options = {
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning --fd 0",
    }
    addresses = {
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_REGISTRY_STORE_URI": uri,
        "MLFLOW_ARTIFACTS_DESTINATION": artifact_root(uri) or "",  # a database always has one
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *chain(*options.items())],
        env={**SERVER_ENVIRONMENT, **os.environ, **addresses},
        stdin=listener.fileno(),
        process_group=0,  # this process passes Ctrl-C on, and one signal can reach all its workers
    )

    def stop(number: int, frame: object) -> None:
        record_signal(number)
        server.terminate()

    try:
        listener.close()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, stop)
        if _wait_until_ready(server, host, port):
            print(f"MLflow UI of {hide_credentials(uri)} (Ctrl-C to stop):\nhttp://{host}:{port}/{page}", flush=True)
        return failure_status(max(0, server.wait()))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _wait_until_ready(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server answers; return False if it exits first."""
    while server.poll() is None:
        connection = HTTPConnection(host, port, timeout=1)
        try:
            connection.request("GET", "/health")
            connection.getresponse()
            return server.poll() is None
        except (OSError, HTTPException):
            time.sleep(0.1)
        finally:
            connection.close()
    return False


def _listen_on_free_port(host: str, port: int) -> socket.socket:
    """Return a socket that listens on the first free port from `port`, so that no other process can take it.

    Raises:
        ValueError: If there is none, or the address is not of this machine.
    """
    for candidate in range(port, port + PORT_ATTEMPTS):
        try:
            return socket.create_server((host, candidate))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                raise ValueError(f"host {host} --port {candidate}: {error}") from error
    raise ValueError(f"port {port}: busy, like the next {PORT_ATTEMPTS - 1}; choose another")
