"""The workers of one sweep: processes of ours, or the jobs of a Hydra launcher."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig

from harness.sweeping.queue import is_dead
from harness.sweeping.worker import Post, spawn

STOP_SECONDS = 60
"""How long a launcher's job waits for its worker to end a step and say so."""
WATCH_SECONDS = 1.0


class Crew:
    """Processes on this machine, which share its cores and GPUs."""

    def __init__(self, post: Post, size: int, gpus: int) -> None:
        self._post, self.size, self._gpus = post, size, gpus
        self._workers: dict[int, subprocess.Popen[str]] = {}

    def start(self, is_served: bool) -> None:
        """Start a worker for every place that has none, whoever else serves the study."""
        for seat in range(self.size):
            if not self._is_alive(seat):
                gpu = seat % self._gpus if self._gpus else None
                self._workers[seat] = spawn(replace(self._post, gpu=gpu), self.log(seat))

    def log(self, seat: int) -> Path:
        return Path(self._post.folder) / f"worker-{seat}.log"

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
        """The last line that the worker at `seat` printed, and where the others are."""
        lines = self.log(seat).read_text(errors="replace").split("\n")
        return f"{next(filter(None, reversed(lines)), 'it said nothing')}; see {self.log(seat)}"

    def stop(self) -> None:
        """Ask every worker to end the step under way."""
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)
        for worker in self._workers.values():
            worker.wait()

    def _signal(self, number: int) -> None:
        for worker in self._workers.values():
            with suppress(ProcessLookupError):
                worker.send_signal(number)

    def _is_alive(self, seat: int) -> bool:
        return seat in self._workers and self._workers[seat].poll() is None


class Launched:
    """Jobs of a Hydra launcher, wherever it runs them; each serves trials until there are none left, so a `launch` that
    waits for all of them holds up nobody. They are asked to stop through the study."""

    def __init__(self, launcher: Launcher, size: int, stop: Callable[[], None]) -> None:
        self._launcher, self.size, self.stop = launcher, size, stop
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, is_served: bool) -> None:
        """Launch, unless jobs of an earlier launch, which another's failure ended, still run trials."""
        if not self.is_working and not is_served:
            self._thread = threading.Thread(target=self._launch, daemon=True)
            self._thread.start()

    @property
    def is_working(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def take_dead(self) -> list[tuple[int, int]]:
        """A launcher that fails, fails as a whole."""
        error, self._error = self._error, None
        self._said = f"{type(error).__name__}: {error}"
        return [(0, 1)] if error is not None else []

    def last_words(self, seat: int) -> str:
        return self._said

    def kill(self) -> None:
        """A launcher's jobs are its own; they end once the study has no more for them."""

    def _launch(self) -> None:
        try:
            returns = self._launcher.launch([[] for _ in range(self.size)], initial_job_idx=0)
            for one in returns:
                _ = one.return_value  # raises what the job raised
        except BaseException as error:
            self._error = error


def job(post: Post, watched: dict[str, Any] | None, cfg: DictConfig) -> int:
    """What a launcher's job does: a worker in a process of its own, as clean as one of ours, and its exit status. It
    ends with the process it is told to watch, which no launcher sees to."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(post.folder)
    folder.mkdir(parents=True, exist_ok=True)
    worker = spawn(post, folder / f"worker-{HydraConfig.get().job.num}.log")
    with suppress(ValueError):  # not the main thread: the launcher has the signals
        signal.signal(signal.SIGTERM, lambda *_: worker.send_signal(signal.SIGINT))
    try:
        while worker.poll() is None and not (watched and is_dead(watched)):
            time.sleep(WATCH_SECONDS)
    finally:
        worker.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            worker.wait(STOP_SECONDS)
        worker.kill()
    return worker.wait()


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
