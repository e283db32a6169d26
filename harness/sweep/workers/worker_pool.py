"""The workers of a sweep: processes on this machine, or jobs of a Hydra launcher."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from harness.core.credentials import hide_credentials_in_text
from harness.sweep.study.liveness import is_dead
from harness.sweep.workers.worker import (
    EXIT_CRASHED,
    EXIT_OK,
    EXIT_SHORTAGE,
    WORKER_MODULE,
    WorkerSpec,
    spawn_worker,
    worker_log_path,
)

MAX_CONSECUTIVE_DEATHS = 3  # of workers, without a trial ending in between
STOP_TIMEOUT_SECONDS = 60  # that a launcher's job waits for its worker to finish a step
POLL_SECONDS = 0.5


class WorkerPool:
    """Worker processes on this machine, which share its cores and GPUs."""

    def __init__(self, spec: WorkerSpec, size: int, n_gpus: int) -> None:
        self._spec, self.size, self._n_gpus = spec, size, n_gpus
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._signaled_pids: set[int] = set()

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Start the workers that are missing, whatever other sweeps of the study run."""
        for index in range(self.size):
            if not self._is_alive(index):
                self._workers[index] = spawn_worker(self._spec, index, self._n_gpus)

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
        return _describe_last_line(worker_log_path(self._spec.folder, index))

    def stop_workers(self) -> None:
        """Ask every worker, once, to stop after its current step."""
        for worker in self._workers.values():
            if worker.pid not in self._signaled_pids:
                self._signaled_pids.add(worker.pid)
                worker.send_signal(signal.SIGINT)

    def kill_workers(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait()

    def _is_alive(self, index: int) -> bool:
        return index in self._workers and self._workers[index].poll() is None


class LauncherPool:
    """Workers started as jobs of a Hydra launcher, on this machine or others.

    Each job runs trials until none are left, so it does not matter that `launch` waits for all jobs to end.
    `request_stop` reaches workers on other machines, which get no signals.
    """

    def __init__(self, launcher: Launcher, size: int, folder: Path, request_stop: Callable[[], None]) -> None:
        self._launcher, self.size, self._folder, self._request_stop = launcher, size, folder, request_stop
        self._thread: threading.Thread | None = None
        self._dead: list[tuple[int, int]] = []
        self._error = ""
        self._signaled_pids: set[int] = set()

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Launch the jobs, unless some of an earlier launch that failed still run trials."""
        if not self.has_workers and not has_heartbeat_trials:
            self._thread = threading.Thread(target=self._launch_jobs, daemon=True)
            self._thread.start()

    @property
    def has_workers(self) -> bool:
        return (self._thread is not None and self._thread.is_alive()) or bool(self._find_workers())

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Return index and exit status of the jobs that failed; if the launcher itself failed, of one job."""
        dead, self._dead = self._dead, []
        return dead

    def describe_last_output(self, index: int) -> str:
        return self._error or _describe_last_line(worker_log_path(self._folder, index))

    def stop_workers(self) -> None:
        """Ask every worker, once, to stop: here after its current step, elsewhere at its next evaluation."""
        self._request_stop()
        for worker in self._find_workers():
            if worker.pid not in self._signaled_pids:
                self._signaled_pids.add(worker.pid)
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGINT)

    def kill_workers(self) -> None:
        """Kill the workers on this machine. Those on others belong to a scheduler, and end with the study."""
        for worker in self._find_workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self._thread = None

    def _find_workers(self) -> list[psutil.Process]:
        """Find the workers among the descendants of this process."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if WORKER_MODULE in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _launch_jobs(self) -> None:
        for handler in logging.getLogger().handlers:
            # Hydra's handler keeps the original stdout. Print through the progress table's instead.
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stdout__:
                handler.setStream(sys.stdout)
        try:
            jobs = self._launcher.launch([[] for _ in range(self.size)], initial_job_idx=0)
            statuses = [job.return_value for job in jobs]  # raises what the job raised
            self._dead = [(index, status) for index, status in enumerate(statuses) if status != EXIT_OK]
        except BaseException as error:
            message = f"{type(error).__name__}: {error}".partition("\n")[0]
            self._error, self._dead = hide_credentials_in_text(message), [(0, EXIT_CRASHED)]


def run_launcher_job(spec: WorkerSpec, n_gpus: int, parent_process: dict[str, Any] | None, cfg: DictConfig) -> int:
    """Run a worker as a launcher's job, replace it if it dies, and return the last exit status.

    The worker has its own process, as in a `WorkerPool`, because a launcher may reuse processes. It ends with
    `parent_process`, the sweep: launchers do not stop their jobs when it dies.
    """
    from hydra.core.hydra_config import HydraConfig

    index = HydraConfig.get().job.num
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    status = EXIT_OK
    for _ in range(MAX_CONSECUTIVE_DEATHS):
        status = _wait_for_worker(spawn_worker(spec, index, n_gpus), parent_process)
        if status in (EXIT_OK, -signal.SIGINT, -signal.SIGTERM):
            return EXIT_OK
        if status == EXIT_SHORTAGE:
            return status
    return status


def _wait_for_worker(worker: subprocess.Popen[str], parent_process: dict[str, Any] | None) -> int:
    """Wait for a worker and return its exit status; exit this process too if its parent dies."""
    with suppress(ValueError):  # raised outside the main thread, where the launcher handles signals
        signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGINT))
    try:
        while worker.poll() is None and not (parent_process and is_dead(parent_process)):
            time.sleep(POLL_SECONDS)
        if worker.poll() is not None:
            return worker.returncode
    finally:
        worker.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_TIMEOUT_SECONDS)
        worker.kill()
    os._exit(EXIT_CRASHED)  # nobody reads the status, and joblib's processes would otherwise stay for minutes


def _describe_last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return f"{next(filter(None, reversed(lines)), 'no output')}; see {log}"


def count_cores() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
