"""Monitor a running sweep: update the table, replace dead workers, and find out when it has ended."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from harness.core.credentials import hide_credentials_in_text
from harness.core.files import FileLock
from harness.core.shortage import describe_full_disk
from harness.core.signals import STOP_SIGNALS, record_signal
from harness.sweep.results.summary import summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.study.storage import STORAGE_ERRORS
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.worker import EXIT_SHORTAGE
from harness.sweep.workers.worker_pool import MAX_CONSECUTIVE_DEATHS, WorkerGroup

POLL_SECONDS, REAP_SECONDS = 0.5, 5.0
# How long storage errors, such as a full disk, may last before the sweep ends. Workers continue meanwhile.
STORAGE_TIMEOUT_SECONDS = 600.0


class SweepOutcome(NamedTuple):
    """End of a sweep's polling: an error or a shortage of disk space that ended it early, or empty strings."""

    error: str = ""
    shortage: str = ""


class SweepMonitor:
    """Poll a sweep until it ends. `on_update` is called after each check for dead trials, about every REAP_SECONDS."""

    def __init__(
        self,
        queue: TrialQueue,
        pool: WorkerGroup,
        table: ProgressTable,
        is_stopping: Callable[[], bool],
        on_update: Callable[[], None],
        storage: str | None,
    ) -> None:
        self._queue, self._pool, self._table = queue, pool, table
        self._is_stopping, self._on_update, self._storage = is_stopping, on_update, storage or ""
        self._n_deaths, self._n_segments, self._reaped_at, self._shortage = 0, 0, time.monotonic(), ""

    def run(self) -> SweepOutcome:
        """Poll until no trials are left or the sweep is stopped, and return what went wrong."""
        self._table(summarize_trials(self._queue.study))  # before a launcher prints anything
        self._pool.start_workers(has_heartbeat_trials=False)
        failing_since = None
        while True:
            try:
                outcome = self._poll_once()
                failing_since = None
            except STORAGE_ERRORS as error:
                outcome = None
                reason = hide_credentials_in_text(str(error).partition("\n")[0], self._storage)
                if failing_since is None:
                    failing_since = time.monotonic()
                    print(f"warning: cannot read the study ({reason}); the workers continue", file=sys.stderr)
                elif time.monotonic() - failing_since > STORAGE_TIMEOUT_SECONDS:
                    outcome = SweepOutcome(f"the study's storage did not answer: {reason}")
            if outcome is not None:
                return outcome
            time.sleep(POLL_SECONDS)

    def _poll_once(self) -> SweepOutcome | None:
        """Update everything once; return None while the sweep is running."""
        dead = self._pool.take_dead_workers()
        short = [index for index, status in dead if status == EXIT_SHORTAGE]
        if short and not self._shortage:
            self._shortage = describe_full_disk(self._queue.folder) or self._pool.describe_last_output(short[0])
        if self._shortage:  # before anything is written: the other workers stop, and their trials are queued again
            self._pool.stop_workers()
            return None if self._pool.has_workers else SweepOutcome(shortage=self._shortage)
        trials = summarize_trials(self._queue.study)
        self._table(trials)
        if self._is_stopping():
            self._pool.stop_workers()
        if dead or time.monotonic() - self._reaped_at > REAP_SECONDS:
            self._reaped_at = time.monotonic()
            self._queue.reap_dead_trials(is_leftover=False)
            self._on_update()
        n_segments = sum(trial.n_segments for trial in trials)
        if n_segments != self._n_segments:
            self._n_deaths = 0
        self._n_deaths, self._n_segments = self._n_deaths + len(dead), n_segments
        if self._is_stopping():
            return None if self._pool.has_workers else SweepOutcome()
        if self._n_deaths >= MAX_CONSECUTIVE_DEATHS:
            output = self._pool.describe_last_output(dead[-1][0])
            return SweepOutcome(f"{self._n_deaths} workers died in a row ({output})")
        if self._queue.has_more_trials() and (dead or not self._pool.has_workers):
            self._pool.start_workers(has_heartbeat_trials=self._queue.has_heartbeat_trials())
            return None
        is_running = self._pool.has_workers or self._queue.has_heartbeat_trials()
        return None if is_running else SweepOutcome()


@contextmanager
def handle_stop_signals(pool: WorkerGroup) -> Iterator[Callable[[], bool]]:
    """Yield a function that returns whether a stop signal was received. A second Ctrl-C kills the workers."""
    received: list[int] = []

    def handle(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            pool.kill_workers()
        elif not received:
            received.append(number)
            record_signal(number)
            with suppress(OSError):  # after SIGHUP there is no terminal
                print("\nstopping the trials; press Ctrl-C again to kill them", file=sys.stderr)

    previous = {number: signal.signal(number, handle) for number in STOP_SIGNALS}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def try_exclusive_lock(folder: Path) -> Iterator[bool]:
    """Try to lock a sweep's folder, and yield whether that succeeded: whether this is its only sweep process."""
    lock = FileLock(folder / "sweep.lock")
    try:
        yield lock.acquire(blocking=False)
    finally:
        lock.release()
