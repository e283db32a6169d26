"""The workers of a sweep as processes on this machine."""

import signal
import subprocess
from pathlib import Path
from typing import Protocol

from harness.sweep.workers.worker import EXIT_OK, WorkerSpec, kill_worker, spawn_worker, worker_log_path

MAX_CONSECUTIVE_DEATHS = 3  # of workers, without a trial ending in between


class WorkerGroup(Protocol):
    """The workers of a sweep, wherever they run."""

    size: int

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Start the workers that are missing; `has_heartbeat_trials` if some, perhaps elsewhere, still run trials."""

    @property
    def has_workers(self) -> bool: ...

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Return index and exit status of the workers that failed since the last call."""
        ...

    def describe_last_output(self, index: int) -> str:
        """Return the last line that a worker printed, and where the rest is."""
        ...

    def stop_workers(self) -> None:
        """Ask every worker, once, to stop."""

    def kill_workers(self) -> None: ...


class WorkerPool:
    """Worker processes on this machine, which share its cores and GPUs."""

    def __init__(self, spec: WorkerSpec) -> None:
        self._spec, self.size = spec, spec.n_jobs
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._signaled_pids: set[int] = set()

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Start the workers that are missing, whatever other sweeps of the study run."""
        for index in range(self.size):
            if not self._is_alive(index):
                self._workers[index] = spawn_worker(self._spec, index)

    @property
    def has_workers(self) -> bool:
        return any(self._is_alive(index) for index in self._workers)

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Return index and exit status of the workers that failed since the last call."""
        statuses = {index: worker.poll() for index, worker in self._workers.items()}
        ended = {index: status for index, status in statuses.items() if status is not None}
        for index in ended:
            stdin = self._workers.pop(index).stdin
            if stdin is not None:
                stdin.close()
        return [(index, status) for index, status in ended.items() if status != EXIT_OK]

    def describe_last_output(self, index: int) -> str:
        return describe_last_line(worker_log_path(self._spec.folder, index))

    def stop_workers(self) -> None:
        """Ask every worker, once, to stop after its current step. SIGINT may come from the trials' own program."""
        for worker in self._workers.values():
            if worker.pid not in self._signaled_pids:
                self._signaled_pids.add(worker.pid)
                worker.send_signal(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Kill the workers with the processes that they have started."""
        for worker in self._workers.values():
            if worker.poll() is None:
                kill_worker(worker.pid)
            worker.wait()

    def _is_alive(self, index: int) -> bool:
        return index in self._workers and self._workers[index].poll() is None


def describe_last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, and the path of the log."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return f"{next(filter(None, reversed(lines)), 'no output')}; see {log}"
