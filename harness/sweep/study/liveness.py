"""Whether the process that runs a trial still lives."""

import os
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

import psutil
from optuna.storages import BaseStorage
from optuna.storages._heartbeat import is_heartbeat_enabled


def this_process() -> dict[str, Any]:
    """What tells this process from all others, also from a later one of the same number."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started_at": _start_time(os.getpid())}


def is_dead(process: Mapping[str, Any]) -> bool:
    """Whether a process of this host has ended; of other hosts' it cannot be known."""
    return process["host"] == socket.gethostname() and _start_time(process["pid"]) != process["started_at"]


def send_heartbeats(storage: BaseStorage, trial_id: int) -> AbstractContextManager[object]:
    """Has a database hear that the trial lives, where it wants to, for as long as this lasts."""
    return _Heartbeat(storage, trial_id) if is_heartbeat_enabled(storage) else nullcontext()


class _Heartbeat:
    """A beat that a database misses is made up for by the next: Optuna's own thread ends at the first."""

    def __init__(self, storage: BaseStorage, trial_id: int) -> None:
        self._storage, self._trial_id = storage, trial_id
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._send_beats, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _send_beats(self) -> None:
        while True:
            with suppress(Exception):
                self._storage.record_heartbeat(self._trial_id)
            if self._is_over.wait(self._storage.get_heartbeat_interval()):
                return


def _start_time(pid: int) -> float | None:
    """An instant that no clock moves: on Linux in ticks since the machine started. None for no living process."""
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
