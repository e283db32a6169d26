"""The workers of a sweep as jobs of a Hydra launcher, on this machine or others."""

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from harness.core.credentials import hide_credentials_in_text
from harness.core.errors import describe_exception
from harness.sweep.request import SweepRequest
from harness.sweep.study.liveness import is_dead, this_process
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.worker import (
    EXIT_CRASHED,
    EXIT_OK,
    EXIT_SHORTAGE,
    WorkerSpec,
    kill_worker,
    spawn_worker,
    worker_log_path,
)
from harness.sweep.workers.worker_pool import MAX_CONSECUTIVE_DEATHS, describe_last_line

STOP_TIMEOUT_SECONDS = 60  # that a job waits for its worker to finish a step
POLL_SECONDS = 0.5


def make_launcher_pool(
    config: DictConfig, context: HydraContext, request: SweepRequest, spec: WorkerSpec, queue: TrialQueue
) -> "LauncherPool":
    """Return workers that the launcher of `config`, which has no credentials, starts."""
    config = config.copy()
    with read_write(config.hydra):
        OmegaConf.update(config, "hydra.sweep.dir", str(request.folder / "jobs"))
    # Jobs on a cluster belong to the cluster and may outlive this process.
    parent = this_process() if request.workers.is_local else None
    task = partial(run_launcher_job, spec, parent)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=config)
    return LauncherPool(launcher, spec, request.workers.n_jobs, queue.request_stop)


class LauncherPool:
    """Workers started as jobs of a Hydra launcher.

    Each job runs trials until none are left, so it does not matter that `launch` waits for all jobs to end.
    `request_stop` reaches workers on other machines, which get no signals.
    """

    def __init__(self, launcher: Launcher, spec: WorkerSpec, size: int, request_stop: Callable[[], None]) -> None:
        self._launcher, self._spec, self.size, self._request_stop = launcher, spec, size, request_stop
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
        return self._error or describe_last_line(worker_log_path(self._spec.folder, index))

    def stop_workers(self) -> None:
        """Ask every worker, once, to stop: here after its current step, elsewhere at its next evaluation."""
        self._request_stop()
        for worker in self._find_workers():
            if worker.pid not in self._signaled_pids:
                self._signaled_pids.add(worker.pid)
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGTERM)

    def kill_workers(self) -> None:
        """Kill the workers on this machine. Those on others belong to a scheduler, and end with the study."""
        for worker in self._find_workers():
            kill_worker(worker.pid)
        self._thread = None

    def _find_workers(self) -> list[psutil.Process]:
        """Find the workers among the descendants of this process, without the processes that they have started."""
        found: dict[int, psutil.Process] = {}
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                is_worker = process.cmdline()[1:] == list(self._spec.command[1:])  # the interpreter may be a link
                is_of_other = any(parent.pid in found for parent in process.parents())
                if is_worker and not is_of_other and process.status() != psutil.STATUS_ZOMBIE:
                    found[process.pid] = process
        return [*found.values()]

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
            self._error, self._dead = hide_credentials_in_text(describe_exception(error)), [(0, EXIT_CRASHED)]


def run_launcher_job(spec: WorkerSpec, parent_process: dict[str, Any] | None, cfg: DictConfig) -> int:
    """Run a worker as a launcher's job, replace it if it dies, and return the last exit status.

    The worker has its own process, as in a `WorkerPool`, because a launcher may reuse processes. It ends with
    `parent_process`, the sweep: launchers do not stop their jobs when it dies.
    """
    from hydra.core.hydra_config import HydraConfig

    index = HydraConfig.get().job.num
    Path(spec.folder).mkdir(parents=True, exist_ok=True)
    status = EXIT_OK
    for _ in range(MAX_CONSECUTIVE_DEATHS):
        status = _wait_for_worker(spawn_worker(spec, index), parent_process)
        if status in (EXIT_OK, -signal.SIGINT, -signal.SIGTERM):
            return EXIT_OK
        if status == EXIT_SHORTAGE:
            return status
    return status


def _wait_for_worker(worker: subprocess.Popen[str], parent_process: dict[str, Any] | None) -> int:
    """Wait for a worker and return its exit status; exit this process too if its parent dies."""
    with suppress(ValueError):  # raised outside the main thread, where the launcher handles signals
        signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGTERM))
    try:
        while worker.poll() is None and not (parent_process and is_dead(parent_process)):
            time.sleep(POLL_SECONDS)
        if worker.poll() is not None:
            return worker.returncode
    finally:
        worker.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_TIMEOUT_SECONDS)
        if worker.poll() is None:
            kill_worker(worker.pid)
    os._exit(EXIT_CRASHED)  # nobody reads the status, and joblib's processes would otherwise stay for minutes
