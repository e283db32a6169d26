"""python -m harness ui: the MLflow UI over the recorded runs."""

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

from harness.config.errors import ConfigError
from harness.tracking.store_uri import artifact_root, hide_credentials, resolve_store_uri, sqlite_path

PORT_ATTEMPTS = 100
SERVER_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "PYTHONWARNINGS": "ignore",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # no processes of its own for a page that shows runs
}


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness ui", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=5000, help="the first to try")
    parser.add_argument("--uri", help="another store than mlruns/mlflow.db of the project")
    args = parser.parse_args(arguments)
    return serve_ui(args.host, args.port, args.uri)


def serve_ui(host: str, port: int, uri: str | None) -> int:
    """Serve the MLflow UI until Ctrl-C, on the first free port from `port` on."""
    try:
        uri = resolve_store_uri(uri)
        free = _find_free_port(host, port)
    except ValueError as error:
        raise ConfigError(f"--{error}") from error
    if uri.startswith(("http", "databricks")):
        raise ConfigError(f"--uri: {hide_credentials(uri)} is a server with a UI of its own; open that in a browser")
    file = sqlite_path(uri)
    if file and not file.exists():
        raise ConfigError(f"there are no runs in {file} yet; make one: python run.py optimizer=adamw schedule=cosine")
    if free != port:
        print(f"port {port} is busy; taking {free}", flush=True)
    return _run_server(host, free, uri)


def _run_server(host: str, port: int, uri: str) -> int:
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
        if _wait_until_ready(server, host, port):
            print(f"MLflow UI of {hide_credentials(uri)}: http://{host}:{port} (Ctrl-C ends it)", flush=True)
        return max(0, server.wait())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)


def _wait_until_ready(server: subprocess.Popen[bytes], host: str, port: int) -> bool:
    """Wait until the server takes connections; False where it ends before."""
    while server.poll() is None:
        try:
            socket.create_connection((host, port), timeout=1).close()
            return True
        except OSError:
            time.sleep(0.1)
    return False


def _find_free_port(host: str, port: int) -> int:
    """The first port from `port` on that nobody listens on; ValueError where there is none or the host is not ours."""
    for candidate in range(port, port + PORT_ATTEMPTS):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, candidate))
                return candidate
            except (OSError, OverflowError) as error:
                if getattr(error, "errno", None) != errno.EADDRINUSE:
                    raise ValueError(f"host {host} --port {candidate}: {error}") from error
    raise ValueError(f"port {port}: it is busy, and so are the {PORT_ATTEMPTS - 1} after it; choose another")
