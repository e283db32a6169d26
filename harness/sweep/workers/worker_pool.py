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
from harness.sweep.workers.worker import CRASHED, ENDED, MODULE, Post, spawn

MAX_DEATHS = 3
"""Workers that may die one after the other."""
STOP_SECONDS = 60
"""How long a launcher's job waits for its worker to end a step and say so."""
WATCH_SECONDS = 0.5


class Crew:
    """Processes on this machine, which share its cores and GPUs."""

    def __init__(self, post: Post, size: int, gpus: int) -> None:
        self._post, self.size, self._gpus = post, size, gpus
        self._workers: dict[int, subprocess.Popen[str]] = {}
        self._asked: set[int] = set()

    def start(self, is_served: bool) -> None:
        """Start a worker for every place that has none, whoever else serves the study."""
        for seat in range(self.size):
            if not self._is_alive(seat):
                gpu = seat % self._gpus if self._gpus else None
                self._workers[seat] = spawn(replace(self._post, gpu=gpu), self.log(seat))

    def log(self, seat: int) -> Path:
        return _log(Path(self._post.folder), seat)

    @property
    def is_working(self) -> bool:
        return any(self._is_alive(seat) for seat in self._workers)

    def take_dead(self) -> list[tuple[int, int]]:
        """Seat and exit status of the workers that did not end well since the last time this was asked."""
        ended = {seat: worker.poll() for seat, worker in self._workers.items() if worker.poll() is not None}
        for seat in ended:
            self._workers.pop(seat).stdin.close()
        return [(seat, status) for seat, status in ended.items() if status != 0]

    def last_words(self, seat: int) -> str:
        return _last_words(self.log(seat))

    def stop(self) -> None:
        """Ask every worker, once, to end after the step under way."""
        for worker in self._workers.values():
            if worker.pid not in self._asked:
                self._asked.add(worker.pid)
                worker.send_signal(signal.SIGINT)

    def kill(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait()

    def _is_alive(self, seat: int) -> bool:
        return seat in self._workers and self._workers[seat].poll() is None


class Launched:
    """Jobs of a Hydra launcher, wherever it runs them; each serves trials until there are none left, so a `launch` that
    waits for all of them holds up nobody. `ask_to_stop` reaches those that no signal reaches."""

    def __init__(self, launcher: Launcher, size: int, folder: Path, ask_to_stop: Callable[[], None]) -> None:
        self._launcher, self.size, self._folder, self._ask_to_stop = launcher, size, folder, ask_to_stop
        self._thread: threading.Thread | None = None
        self._dead: list[tuple[int, int]] = []
        self._error = ""
        self._asked: set[int] = set()

    def start(self, is_served: bool) -> None:
        """Launch, unless jobs of an earlier launch, which another's failure ended, still run trials."""
        if not self.is_working and not is_served:
            self._thread = threading.Thread(target=self._launch, daemon=True)
            self._thread.start()

    @property
    def is_working(self) -> bool:
        return (self._thread is not None and self._thread.is_alive()) or bool(self._workers())

    def take_dead(self) -> list[tuple[int, int]]:
        """Seat and exit status of the jobs that did not end well; a launcher that fails, fails as a whole."""
        dead, self._dead = self._dead, []
        return dead

    def last_words(self, seat: int) -> str:
        return self._error or _last_words(_log(self._folder, seat))

    def stop(self) -> None:
        """Ask every worker, once, to end after the step under way; those that are elsewhere end at an evaluation."""
        self._ask_to_stop()
        for worker in self._workers():
            if worker.pid not in self._asked:
                self._asked.add(worker.pid)
                with suppress(psutil.NoSuchProcess):
                    worker.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """What runs elsewhere is its scheduler's; it ends once the study has no more for it."""
        for worker in self._workers():
            with suppress(psutil.NoSuchProcess):
                worker.kill()
        self._thread = None

    def _workers(self) -> list[psutil.Process]:
        """The workers of jobs that this process, or one below it, has started itself."""
        found = []
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if MODULE in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def _launch(self) -> None:
        for handler in logging.getLogger().handlers:  # Hydra's know the standard output from before there was a table
            if isinstance(handler, logging.StreamHandler) and handler.stream is sys.__stdout__:
                handler.setStream(sys.stdout)
        try:
            returns = self._launcher.launch([[] for _ in range(self.size)], initial_job_idx=0)
            statuses = [one.return_value for one in returns]  # raises what the job raised
            self._dead = [(seat, status) for seat, status in enumerate(statuses) if status != ENDED]
        except BaseException as error:
            self._error, self._dead = f"{type(error).__name__}: {error}".partition("\n")[0], [(0, CRASHED)]


def job(post: Post, gpus: int, watched: dict[str, Any] | None, cfg: DictConfig) -> int:
    """What a launcher's job does: a worker in a process of its own, as clean as one of ours, replaced where it dies,
    and the exit status of the last. It ends with the process it is told to watch, which no launcher sees to."""
    from hydra.core.hydra_config import HydraConfig

    seat = HydraConfig.get().job.num
    folder = Path(post.folder)
    folder.mkdir(parents=True, exist_ok=True)
    for _ in range(MAX_DEATHS):
        status = _attend(spawn(replace(post, gpu=seat % gpus if gpus else None), _log(folder, seat)), watched)
        if status in (ENDED, -signal.SIGINT, -signal.SIGTERM):
            return ENDED
    return status


def _attend(worker: subprocess.Popen[str], watched: dict[str, Any] | None) -> int:
    """The exit status of `worker`, which ends at the latest with this process or the one that is watched."""
    with suppress(ValueError):  # not the main thread: the launcher has the signals
        signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGINT))
    try:
        while worker.poll() is None and not (watched and is_dead(watched)):
            time.sleep(WATCH_SECONDS)
        if worker.poll() is not None:
            return worker.returncode
    finally:
        worker.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_SECONDS)
        worker.kill()
    os._exit(CRASHED)  # nobody is left to tell, and joblib's processes would stay for minutes


def _log(folder: Path, seat: int) -> Path:
    return folder / f"worker-{seat}.log"


def _last_words(log: Path) -> str:
    """The last line that the worker printed, and where the others are."""
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    return f"{next(filter(None, reversed(lines)), 'it said nothing')}; see {log}"


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
