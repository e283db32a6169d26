"""Watches a sweep while it runs: what it shows, whom it replaces, when it ends."""

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from harness.core.files import FileLock
from harness.sweep.report.summary import summarize_trials
from harness.sweep.report.table import ProgressTable
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.worker_pool import MAX_CONSECUTIVE_DEATHS, LauncherPool, WorkerPool

POLL_SECONDS, REAP_SECONDS = 0.5, 5.0
STORAGE_TIMEOUT_SECONDS = 600.0
"""How long a storage may not answer, or a disk be full, before the sweep gives up; its workers go on meanwhile."""

STORAGE_ERRORS = (OSError, StorageInternalError, SQLAlchemyError)


def monitor_sweep(
    queue: TrialQueue,
    pool: WorkerPool | LauncherPool,
    table: ProgressTable,
    is_stopping: Callable[[], bool],
    on_update: Callable[[], None],
) -> str:
    """Show the trials and replace the workers that die, until there is nothing left to do; what went wrong, if so."""
    table(summarize_trials(queue.study))  # before a launcher prints anything
    pool.start_workers(has_heartbeat_trials=False)
    round_of = _MonitorRound(queue, pool, table, is_stopping, on_update)
    away_at = None
    while True:
        try:
            ending = round_of()
            away_at = None
        except STORAGE_ERRORS as error:
            if away_at is None:
                said = str(error).partition("\n")[0]
                print(f"warning: the study cannot be looked at ({said}); the workers go on", file=sys.stderr)
            away_at = away_at or time.monotonic()
            ending = (
                f"the study did not answer: {error}" if time.monotonic() - away_at > STORAGE_TIMEOUT_SECONDS else None
            )
        if ending is not None:
            return ending
        time.sleep(POLL_SECONDS)


class _MonitorRound:
    """One look at everything; None while the sweep goes on."""

    def __init__(
        self,
        queue: TrialQueue,
        crew: WorkerPool | LauncherPool,
        table: ProgressTable,
        is_stopping: Callable[[], bool],
        tell: Callable[[], None],
    ) -> None:
        self._queue, self._crew, self._table, self._is_stopping, self._tell = queue, crew, table, is_stopping, tell
        self._deaths, self._ended, self._reaped_at = 0, 0, time.monotonic()

    def __call__(self) -> str | None:
        trials = summarize_trials(self._queue.study)
        self._table(trials)
        if self._is_stopping():
            self._crew.stop_workers()
        dead = self._crew.take_dead_workers()
        if dead or time.monotonic() - self._reaped_at > REAP_SECONDS:
            self._reaped_at = time.monotonic()
            self._queue.reap_dead_trials(is_leftover=False)
            self._tell()
        ended = sum(trial.is_over for trial in trials)
        self._deaths, self._ended = (self._deaths if ended == self._ended else 0) + len(dead), ended
        if self._deaths >= MAX_CONSECUTIVE_DEATHS and not self._is_stopping():
            return f"{self._deaths} workers died one after the other ({self._crew.describe_last_output(dead[-1][0])})"
        if not self._is_stopping() and self._queue.has_more_trials() and (dead or not self._crew.has_workers):
            self._crew.start_workers(has_heartbeat_trials=self._queue.has_heartbeat_trials())
            return None
        is_over = not self._crew.has_workers and (self._is_stopping() or not self._queue.has_heartbeat_trials())
        return "" if is_over else None


@contextmanager
def handle_stop_signals(pool: WorkerPool | LauncherPool) -> Iterator[Callable[[], bool]]:
    """A first signal ends the trials after the step under way, a second Ctrl-C at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            pool.kill_workers()
        elif not received:
            received.append(number)
            with suppress(OSError):  # the terminal may be what has gone
                print("\nstopping after the step under way; Ctrl-C again stops at once", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


@contextmanager
def exclusive_lock(folder: Path) -> Iterator[bool]:
    """Whether no other process sweeps in `folder`, which is known by a lock that is held as long as this lasts."""
    lock = FileLock(folder / "sweep.lock")
    try:
        yield lock.acquire(blocking=False)
    finally:
        lock.release()
