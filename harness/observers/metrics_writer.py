"""The observer that writes metrics.jsonl, from which everything that shows the run later is made."""

import os
import sys
from contextlib import suppress
from typing import BinaryIO

from harness.core.events import Event, Observer, RunStart
from harness.core.files import FileLock
from harness.record.event_entries import make_entries
from harness.record.metric_rows import MetricAggregator
from harness.record.metrics_file import METRICS_FILE, encode_entry


class MetricsWriter(Observer):
    """Write each line at once. Lines that a full disk rejects are kept and written with the next one.

    Only the first line must be written at once, and every line before the next checkpoint: `flush` raises otherwise.
    """

    def __init__(self) -> None:
        self._aggregate = MetricAggregator()
        self._file: BinaryIO | None = None
        self._unwritten = bytearray()
        self._has_warned = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._folder = event.folder
            self._path = event.folder / METRICS_FILE
            self._file = self._path.open("xb", buffering=0)  # never overwrites the record of another run
            self._lock = FileLock(self._path, required=False)
            self._lock.acquire()
        for entry in make_entries(event, self._aggregate(event), self._folder):
            self._unwritten += encode_entry(entry)
            self._try_to_write()
        if isinstance(event, RunStart):
            self.flush()

    def flush(self) -> None:
        if self._file is not None:
            self._write()
            os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file is not None:
            self._try_to_write()
            self._lock.release()
            self._file.close()
            self._file = None

    def _write(self) -> None:
        assert self._file is not None
        while self._unwritten:
            del self._unwritten[: self._file.write(self._unwritten)]

    def _try_to_write(self) -> None:
        try:
            self._write()
        except OSError as error:
            if not self._has_warned:
                with suppress(OSError):  # stderr may be a file on the same disk
                    print(f"warning: {self._path}: {error}; will write later", file=sys.stderr)
            self._has_warned = True
