"""Detect dead workers: on this host by pid and start time, on others by heartbeats in the storage."""

import os
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
from optuna.trial import Trial

from harness.sweep.optuna_internals import get_heartbeat_interval, record_heartbeat


def this_process() -> dict[str, Any]:
    """Return host, pid and start time, which identify this process even when the system reuses its pid."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started_at": _start_time(os.getpid())}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Return whether a process of this host has ended. Of one on another host nothing is known: return False."""
    return process["host"] == socket.gethostname() and _start_time(process["pid"]) != process["started_at"]


def is_alive(process: Mapping[str, Any]) -> bool:
    """Return whether a process runs on this host."""
    return process["host"] == socket.gethostname() and not is_dead(process)


@contextmanager
def send_heartbeats(trial: Trial) -> Iterator[None]:
    """Record heartbeats in the background where the storage keeps them.

    Unlike Optuna's own thread, which ends when the database does not answer once, this one tries again.
    """
    interval = get_heartbeat_interval(trial.study)
    if interval is None:
        yield
        return
    is_over = threading.Event()

    def send() -> None:
        while True:
            with suppress(Exception):
                record_heartbeat(trial)
            if is_over.wait(interval):
                return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def _start_time(pid: int) -> float | None:
    """Return when a process started, None if it is not alive.

    On Linux in clock ticks since boot, because psutil's time of day shifts when the clock is set.
    """
    if sys.platform == "linux":
        try:
            state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return None if state == "Z" else float(fields[18])  # field 22 of proc(5)
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None
