"""MLflow stores and servers for tests."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path

from harness.record import metrics_file
from harness.tracking.mlflow_client import connect_to_store


@cache
def migrated_store() -> tempfile.TemporaryDirectory[str]:
    """Create a store once per session; the migrations take seconds, and copies are cheap."""
    folder = tempfile.TemporaryDirectory()
    connect_to_store(f"sqlite:///{folder.name}/mlflow.db")
    return folder


def new_store(folder: Path) -> str:
    """Return the address of an empty SQLite store in `folder`, as if it had been created there."""
    shutil.copy(Path(migrated_store().name) / "mlflow.db", folder / "mlflow.db")
    with closing(sqlite3.connect(folder / "mlflow.db")) as database, database:
        location = f"{(folder / 'mlruns' / 'artifacts').as_uri()}/0"
        database.execute("UPDATE experiments SET artifact_location = ?", [location])
    return f"sqlite:///{folder}/mlflow.db"


def only_run(uri: str, experiment: str = "default"):
    """Return a client and the only run of an experiment."""
    client = connect_to_store(uri)
    [run] = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return client, run


def stored_points(uri: str, experiment: str = "default") -> Counter:
    """Count the (metric, step, milliseconds, value as text) rows that the store has of the only run."""
    client, run = only_run(uri, experiment)
    histories = [client.get_metric_history(run.info.run_id, name) for name in run.data.metrics]
    return Counter((m.key, m.step, m.timestamp, str(m.value)) for history in histories for m in history)


def recorded_points(folder: Path) -> Counter:
    """Count the same of the curves in metrics.jsonl; MLflow's SQL stores hold infinity as the largest double."""
    largest = {"inf": str(sys.float_info.max), "-inf": str(-sys.float_info.max)}
    return Counter(
        (name, entry["step"], entry["at_ms"], largest.get(str(value), str(value)))
        for entry, _ in metrics_file.read_entries(metrics_file.find_record(folder))
        for name, value in entry.get("metrics", {}).items()
        if not name.startswith(("constant/", "grad_norm/"))
    )


def wait_until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class MlflowServer:
    """An MLflow server on loopback, in its own process group so that it can be killed with its workers."""

    def __init__(self, store: str, port: int, artifacts: Path) -> None:
        command = ["-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port), "--workers", "1"]
        self.uri = f"http://127.0.0.1:{port}"
        self.process = subprocess.Popen(
            [sys.executable, *command, "--artifacts-destination", str(artifacts)],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        wait_until(lambda: is_port_open(port))

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def is_port_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False
