"""MLflow, fed from metrics.jsonl by a process of its own: its import and its first migrations take seconds of Python
that a thread would take from training."""

import subprocess
import sys
import threading
from typing import IO

from harness.events import Event, Observer, RunStart
from harness.observers import record
from harness.observers.store import EXPERIMENT, PROJECT, store_uri
from harness.observers.upload import Cursor

LAST_SECONDS = 60


class Mlflow(Observer):
    """Records the run at `uri`, by default the project's own store, while it goes on; what a store that is down
    misses, `python -m harness sync` brings later. Comes after jsonl, which it reads, and figures, which it takes."""

    def __init__(self, uri: str | None = None, experiment: str = EXPERIMENT) -> None:
        if not experiment:
            raise ValueError(f"experiment: {experiment!r} is no name")
        self._uri, self._experiment = store_uri(uri), experiment
        self._uploader: subprocess.Popen[str] | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._folder = event.folder.absolute()
            self._begin()

    def close(self) -> None:
        if self._uploader is None:
            return
        self._uploader.stdin.close()
        try:
            status = self._uploader.wait(LAST_SECONDS)
        except subprocess.TimeoutExpired:
            self._uploader.kill()
            status = self._uploader.wait()
        self._relay.join()
        if status:
            _warn(f"MLflow does not have all of this run yet; later, python -m harness sync {self._folder}")

    def _begin(self) -> None:
        if not (self._folder / record.NAME).exists():
            _warn(f"nothing goes to MLflow: it reads {record.NAME}, which observers.jsonl writes")
            return
        Cursor(self._uri, self._experiment).save(self._folder)
        self._uploader = subprocess.Popen(
            [sys.executable, "-m", "harness.observers.upload", str(self._folder)],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            process_group=0,  # Ctrl-C is for the run, which then tells the uploader
        )
        self._relay = threading.Thread(target=_relay, args=(self._uploader.stdout,), daemon=True)
        self._relay.start()


def _relay(lines: IO[str]) -> None:
    for line in lines:
        _warn(line.rstrip())


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)
