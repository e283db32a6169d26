"""The process that uploads to MLflow beside a run or a sweep: the one who starts it, and what it does."""

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO

from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import UploadCursor, UploadResult, upload_run
from harness.tracking.store_uri import PROJECT, sqlite_path

POLL_INTERVAL_S = {"run": 2.0, "sweep": 5.0}
FINAL_ATTEMPTS = {"file": 8, "server": 3}
"""Once all is over: a file that is locked is soon free, a server that is down is not. Less than a minute in all."""
FINAL_TIMEOUT_S = 60


class UploadProcess:
    """Has a run's or a sweep's folder uploaded as it grows, by a process that sees to the end of it however this one
    ends. A sweep counts as running until `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._sweep_lock = (
            sweep_uploader.mark_sweep_running(self._folder) if sweep_uploader.is_sweep_folder(self._folder) else None
        )
        self._process = subprocess.Popen(
            [sys.executable, "-m", "harness.tracking.upload_process", str(self._folder)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # Ctrl-C is for the run, which then tells this process
        )
        self._relay = threading.Thread(target=_relay_warnings, args=(self._process.stdout,), daemon=True)
        self._relay.start()

    def close(self) -> None:
        """Wait, a minute at most, until MLflow has all; say what to do where it has not."""
        if self._sweep_lock is not None:
            self._sweep_lock.release()
        self._process.stdin.close()
        try:
            status = self._process.wait(FINAL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._relay.join()
        if status:
            print_warning(f"MLflow does not have all of it yet; later, python -m harness sync {self._folder}")


def print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _relay_warnings(lines: IO[str]) -> None:
    for line in lines:
        print_warning(line.rstrip())


def upload_until_complete(folder: Path) -> int:
    """Upload a folder as it grows until its end or the death of who writes it; 0 once MLflow has all, else 1."""
    os.nice(10)  # training comes first
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the run, whose end shows below
    is_sweep = sweep_uploader.is_sweep_folder(folder)
    bring = make_uploader(folder, _print_message)
    uri = sweep_uploader.read_sweep_identity(folder)["uri"] if is_sweep else UploadCursor.load(folder).uri
    tries = FINAL_ATTEMPTS["file" if sqlite_path(uri) else "server"]
    has_warned, is_over = False, False
    while tries:
        try:
            if bring().is_complete:
                return 0
        except UploadError as error:
            if not has_warned:
                _print_message(f"{error}; training goes on and everything is kept in {folder}")
            has_warned = True
        if is_over:
            tries -= 1
            time.sleep(1)
        else:  # readable at its end: the writer let go, or died
            is_over = bool(select.select([sys.stdin], [], [], POLL_INTERVAL_S["sweep" if is_sweep else "run"])[0])
    return 1


def make_uploader(folder: Path, on_message: Callable[[str], None] = print) -> Callable[[], UploadResult]:
    """What brings over all that MLflow lacks of a run's or a sweep's folder, each time it is called."""
    return (
        sweep_uploader.SweepUploader(folder, on_message)
        if sweep_uploader.is_sweep_folder(folder)
        else partial(upload_run, folder, on_message)
    )


def _print_message(text: str) -> None:
    with suppress(OSError):  # the run that listened may be gone
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(upload_until_complete(Path(sys.argv[1])))
