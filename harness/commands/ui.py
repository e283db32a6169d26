"""plateau ui: browse the recorded runs in the MLflow UI."""

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
from itertools import chain

from harness.core.errors import ConfigError
from harness.core.paths import run_command
from harness.tracking.store_uri import artifact_root, hide_credentials, resolve_store_uri, sqlite_path

PORT_ATTEMPTS = 100
SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # its worker processes are not needed to show runs
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="plateau ui", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="if it is busy, the next free one is used")
    parser.add_argument("--uri", help="a store other than mlruns/mlflow.db of the project")
    args = parser.parse_args(arguments)
    return serve_ui(args.host, args.port, args.uri)


def serve_ui(host: str, port: int, uri: str | None) -> int:
    """Serve the MLflow UI on the first free port from `port` until Ctrl-C; return the exit status."""
    try:
        uri = resolve_store_uri(uri)
        free = _find_free_port(host, port)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    if uri.startswith(("http", "databricks")):
        raise ConfigError(f"--uri: {hide_credentials(uri)} is a server that has its own UI; open it in a browser")
    file = sqlite_path(uri)
    if file and not file.exists():
        command = " ".join(run_command())
        raise ConfigError(f"no runs in {file} yet; record one with {command} optimizer=adamw schedule=cosine")
    if free != port:
        print(f"port {port} is busy; using {free}", flush=True)
    return _run_server(host, free, uri)


def _run_server(host: str, port: int, uri: str) -> int:
    """Run the server as a child process that ends with this one; return its exit status, 0 if a signal ended it."""
    options = {
        "--backend-store-uri": uri,
        "--registry-store-uri": uri,
        "--artifacts-destination": artifact_root(uri) or "",  # a database always has one
        "--host": host,
        "--port": str(port),
        "--workers": "1",
        "--uvicorn-opts": "--log-level warning",
    }
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *chain(*options.items())],
        env={**SERVER_ENVIRONMENT, **os.environ},
        process_group=0,  # this process passes Ctrl-C on, and one signal can reach all its workers
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: server.terminate())
    try:
        if _wait_until_ready(server, host, port):
            print(f"MLflow UI of {hide_credentials(uri)}: http://{host}:{port} (Ctrl-C to stop)", flush=True)
        return max(0, server.wait())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _wait_until_ready(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server accepts connections; return False if it exits first."""
    while server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _find_free_port(host: str, port: int) -> int:
    """Return the first free port from `port`; ValueError if there is none or the address is not of this machine."""
    for candidate in range(port, port + PORT_ATTEMPTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ValueError(f"host {host} --port {candidate}: {error}") from error
    raise ValueError(f"port {port}: busy, like the next {PORT_ATTEMPTS - 1}; choose another")
