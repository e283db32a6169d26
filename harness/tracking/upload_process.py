"""The process that uploads a run or a sweep to MLflow while it is under way, and the handle that starts it."""

import os
import select
import shlex
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

from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError, DamageError
from harness.core.paths import module_command, project_dir
from harness.core.signals import was_interrupted
from harness.core.terminal import SILENT_S, announce
from harness.tracking import sweep_uploader
from harness.tracking.mlflow_client import UploadError
from harness.tracking.run_uploader import UploadResult, upload_run
from harness.tracking.sqlite_store import is_creating_store
from harness.tracking.store_uri import is_own_store, restore_credentials, sqlite_path
from harness.tracking.upload_cursor import UploadCursor

POLL_INTERVAL_S = {"run": 2.0, "sweep": 5.0}
FINAL_ATTEMPTS = {"file": 8, "server": 3}
"""Attempts after the run has ended, less than a minute in all. A locked file is soon free, a server seldom back."""
FINAL_TIMEOUT_S = 60


class UploadProcess:
    """Start a process that uploads the folder of a run or a sweep to the store at `uri` as it grows.

    The process completes the upload however this one ends. A sweep counts as running until `close`. The process
    receives the credentials of `uri` in its environment: files do not have them, and command lines are public.
    """

    def __init__(self, folder: Path, uri: str) -> None:
        self._folder, self._uri = folder.absolute(), uri
        is_sweep = sweep_uploader.is_sweep_folder(self._folder)
        self._sweep_lock = sweep_uploader.mark_sweep_running(self._folder) if is_sweep else None
        self._process = subprocess.Popen(
            [*module_command("harness.tracking.upload_process"), str(self._folder)],
            cwd=project_dir(),
            env={**os.environ, "MLFLOW_TRACKING_URI": restore_credentials(uri)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # Ctrl-C is for the run, whose end the process sees on its stdin
        )
        assert self._process.stdout is not None
        self._relay = threading.Thread(target=_relay_warnings, args=(self._process.stdout,), daemon=True)
        self._relay.start()

    def close(self) -> None:
        """Wait up to a minute for the upload to complete; if it does not, print the command that completes it.

        The process is stopped then, unless it is creating the store.

        Raises:
            KeyboardInterrupt: At a signal. The process continues the upload, and the message says so.
        """
        if self._sweep_lock is not None:
            self._sweep_lock.release()
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            status = self._wait(0 if was_interrupted() else FINAL_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            if was_interrupted():
                raise KeyboardInterrupt(f"interrupted; {self._describe_background()}") from None
            if is_creating_store(self._uri, self._process.pid):  # which a kill would only make start again
                print_warning(f"the store is still being created, so {self._describe_background()}")
                return
            self._process.kill()
            status = self._process.wait()
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; {self._describe_background()}") from None
        self._relay.join()
        if status:
            print_warning(f"the upload to MLflow is incomplete; complete it with {self._sync_command()}")

    def _wait(self, seconds: float) -> int:
        """Return the exit status of the process; say so if the wait is long.

        Raises:
            subprocess.TimeoutExpired: If it takes longer than `seconds`.
        """
        try:
            return self._process.wait(min(SILENT_S, seconds))
        except subprocess.TimeoutExpired:
            if seconds <= SILENT_S:
                raise
        announce(f"waiting for the upload to MLflow, at most {seconds:.0f} s")
        return self._process.wait(seconds - SILENT_S)

    def _describe_background(self) -> str:
        return f"the upload to MLflow continues in the background; complete it with {self._sync_command()}"

    def _sync_command(self) -> str:
        command = f"plateau sync {self._folder}"
        if is_own_store(self._uri):
            return command
        if hide_credentials(self._uri) == self._uri:
            return f"MLFLOW_TRACKING_URI={shlex.quote(self._uri)} {command}"
        return f"{command} and MLFLOW_TRACKING_URI set to the address with its password, which no file has"


def print_warning(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def _relay_warnings(lines: IO[str]) -> None:
    for line in lines:
        print_warning(line.rstrip())


def upload_until_complete(folder: Path) -> int:
    """Upload a folder as it grows, until its writer ends or dies. Return 0 if MLflow has everything, else 1."""
    os.nice(10)  # training comes first
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # meant for the run
    is_sweep = sweep_uploader.is_sweep_folder(folder)
    upload = make_uploader(folder, _print_message)
    uri = sweep_uploader.read_sweep_identity(folder)["uri"] if is_sweep else UploadCursor.load(folder).uri
    attempts = FINAL_ATTEMPTS["file" if sqlite_path(uri) else "server"]
    has_warned, has_ended = False, False
    while attempts:
        try:
            if upload().is_complete:
                return 0
        except (UploadError, DamageError, ConfigError) as error:
            if not has_warned:
                _print_message(f"{error}; training continues, and everything is kept in {folder}")
            has_warned = True
        if has_ended:
            attempts -= 1
            time.sleep(1)
        else:  # stdin becomes readable when its writer closes it or dies
            has_ended = bool(select.select([sys.stdin], [], [], POLL_INTERVAL_S["sweep" if is_sweep else "run"])[0])
    return 1


def make_uploader(folder: Path, on_message: Callable[[str], None] = print) -> Callable[[], UploadResult]:
    """Return a function that uploads what MLflow lacks of a run's or a sweep's folder."""
    if sweep_uploader.is_sweep_folder(folder):
        return sweep_uploader.SweepUploader(folder, on_message)
    return partial(upload_run, folder, on_message)


def _print_message(text: str) -> None:
    with suppress(OSError):  # the run that reads it may have died
        print(text, flush=True)


if __name__ == "__main__":
    sys.exit(upload_until_complete(Path(sys.argv[1])))
