"""The workers of one sweep: processes of ours, or the jobs of a Hydra launcher."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from harness.sweep.study.liveness import is_dead
from harness.sweep.workers.worker import EXIT_CRASHED, EXIT_OK, WORKER_MODULE, WorkerSpec, spawn_worker

MAX_CONSECUTIVE_DEATHS = 3
"""Workers that may die one after the other."""
STOP_TIMEOUT_SECONDS = 60
"""How long a launcher's job waits for its worker to end a step and say so."""
POLL_SECONDS = 0.5


class WorkerPool:
    """Processes on this machine, which share its cores and GPUs."""

    def __init__(self, post: WorkerSpec, size: int, gpus: int) -> None:
        self._post, self.size, self._gpus = post, size, gpus
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._asked: set[int] = set()

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Start a worker for every place that has none, whoever else serves the study."""
        for seat in range(self.size):
            if not self._is_alive(seat):
                gpu = seat % self._gpus if self._gpus else None
                self._workers[seat] = spawn_worker(replace(self._post, gpu=gpu), self.log_path(seat))

    def log_path(self, seat: int) -> Path:
        return _worker_log_path(Path(self._post.folder), seat)

    @property
    def has_workers(self) -> bool:
        return any(self._is_alive(seat) for seat in self._workers)

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Seat and exit status of the workers that did not end well since the last time this was asked."""
        ended = {seat: worker.poll() for seat, worker in self._workers.items() if worker.poll() is not None}
        for seat in ended:
            self._workers.pop(seat).stdin.close()
        return [(seat, status) for seat, status in ended.items() if status != 0]

    def describe_last_output(self, seat: int) -> str:
        return _describe_last_output(self.log_path(seat))

    def stop_workers(self) -> None:
        """Ask every worker, once, to end after the step under way."""
        for worker in self._workers.values():
            if worker.pid not in self._asked:
                self._asked.add(worker.pid)
                worker.send_signal(signal.SIGINT)

    def kill_workers(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait()

    def _is_alive(self, seat: int) -> bool:
        return seat in self._workers and self._workers[seat].poll() is None


class LauncherPool:
    """Jobs of a Hydra launcher, wherever it runs them; each serves trials until there are none left, so a `launch` that
    waits for all of them holds up nobody. `ask_to_stop` reaches those that no signal reaches."""

    def __init__(self, launcher: Launcher, size: int, folder: Path, request_stop: Callable[[], None]) -> None:
        self._launcher, self.size, self._folder, self._ask_to_stop = launcher, size, folder, request_stop
        self._thread: threading.Thread | None = None
        self._dead: list[tuple[int, int]] = []
        self._error = ""
        self._asked: set[int] = set()

    def start_workers(self, has_heartbeat_trials: bool) -> None:
        """Launch, unless jobs of an earlier launch, which another's failure ended, still run trials."""
        if not self.has_workers and not has_heartbeat_trials:
            self._thread = threading.Thread(target=self._launch_jobs, daemon=True)
            self._thread.start()

    @property
    def has_workers(self) -> bool:
        return (self._thread is not None and self._thread.is_alive()) or bool(self._find_workers())

    def take_dead_workers(self) -> list[tuple[int, int]]:
        """Seat and exit status of the jobs that did not end well; a launcher that fails, fails as a whole."""
        dead, self._dead = self._dead, []
        return dead

    def describe_last_output(self, seat: int) -> str:
        return self._error or _describe_last_output(_worker_log_path(self._folder, seat))

    def stop_workers(self) -> None:
        """Ask every worker, once, to end after the step under way; those that are elsewhere end at an evaluation."""
        self._ask_to_stop()
        for worker in self._find_workers():
            if worker.pid not in self._asked:
                self._asked.add(worker.pid)
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGINT)

    def kill_workers(self) -> None:
        """What runs elsewhere is its scheduler's; it ends once the study has no more for it."""
        for worker in self._find_workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self._thread = None

    def _find_workers(self) -> list[psutil.Process]:
        """The workers of jobs that this process, or one below it, has started itself."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if WORKER_MODULE in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _launch_jobs(self) -> None:
        for handler in logging.getLogger().handlers:  # Hydra's know the standard output from before there was a table
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stdout__:
                handler.setStream(sys.stdout)
        try:
            returns = self._launcher.launch([[] for _ in range(self.size)], initial_job_idx=0)
            statuses = [one.return_value for one in returns]  # raises what the job raised
            self._dead = [(seat, status) for seat, status in enumerate(statuses) if status != EXIT_OK]
        except BaseException as error:
            self._error, self._dead = f"{type(error).__name__}: {error}".partition("\n")[0], [(0, EXIT_CRASHED)]


def run_launcher_job(post: WorkerSpec, gpus: int, parent_process: dict[str, Any] | None, cfg: DictConfig) -> int:
    """What a launcher's job does: a worker in a process of its own, as clean as one of ours, replaced where it dies,
    and the exit status of the last. It ends with the process it is told to watch, which no launcher sees to."""
    from hydra.core.hydra_config import HydraConfig

    seat = HydraConfig.get().job.num
    folder = Path(post.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(MAX_CONSECUTIVE_DEATHS):
        status = _wait_for_worker(
            spawn_worker(replace(post, gpu=seat % gpus if gpus else None), _worker_log_path(folder, seat)),
            parent_process,
        )
        if status in (EXIT_OK, -signal.SIGINT, -signal.SIGTERM):
            return EXIT_OK
    return status


def _wait_for_worker(worker: subprocess.Popen[str], watched: dict[str, Any] | None) -> int:
    """The exit status of `worker`, which ends at the latest with this process or the one that is watched."""
    with suppress(ValueError):  # not the main thread: the launcher has the signals
        signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGINT))
    try:
        while worker.poll() is None and not (watched and is_dead(watched)):
            time.sleep(POLL_SECONDS)
        if worker.poll() is not None:
            return worker.returncode
    finally:
        worker.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_TIMEOUT_SECONDS)
        worker.kill()
    os._exit(EXIT_CRASHED)  # nobody is left to tell, and joblib's processes would stay for minutes


def _worker_log_path(folder: Path, seat: int) -> Path:
    return folder / f"worker-{seat}.log"


def _describe_last_output(log: Path) -> str:
    """The last line that the worker printed, and where the others are."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return f"{next(filter(None, reversed(lines)), 'it said nothing')}; see {log}"


def count_cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
