"""The observer that writes metrics.jsonl, from which everything that shows the run later is made."""

import sys
from typing import BinaryIO

from harness.core.events import Event, Observer, RunStart
from harness.core.files import FileLock
from harness.record.event_entries import make_entries
from harness.record.metric_rows import MetricAggregator
from harness.record.metrics_file import METRICS_FILE, encode_entry


class MetricsWriter(Observer):
    """Write each line at once. Lines that a full disk rejects are kept and written with the next one."""

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
            self._flush()

    def close(self) -> None:
        if self._file is not None:
            self._flush()
            self._lock.release()
            self._file.close()
            self._file = None

    def _flush(self) -> None:
        assert self._file is not None
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:
            if not self._has_warned:
                print(f"warning: {self._path}: {error}; training continues, will write later", file=sys.stderr)
            self._has_warned = True
