"""The plain record: metrics.jsonl in the run's folder, which everything that shows a run later reads."""

import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from harness.core.events import Diagnosis, Event, FinalDiagnosis, Observer, RunEnd, RunStart, Spike
from harness.core.files import FileLock
from harness.record import metrics_file
from harness.record.metric_rows import MetricAggregator, describe_event
from harness.tracking.store_uri import hide_credentials


class MetricsWriter(Observer):
    """Writes each line at once; what a full disk refuses is kept and tried again with the next line."""

    def __init__(self) -> None:
        self._window = MetricAggregator()
        self._file: BinaryIO | None = None
        self._unwritten = bytearray()
        self._has_warned = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._write_start(event)
        row = self._window(event)
        if row is not None:
            self._write_entry("metrics", **asdict(row))
        text = describe_event(event)
        if text is not None:
            self._write_entry("notice", text=text)
        match event:
            case Spike():
                self._write_entry("spike", **asdict(event))
            case Diagnosis():
                self._write_entry("diagnosis", diagnosis=asdict(event))
            case FinalDiagnosis():
                self._write_entry("final_diagnosis", **asdict(event))
        if isinstance(event, RunEnd):
            self._write_end(event)

    def close(self) -> None:
        if self._file is not None:
            self._flush()
            self._lock.release()
            self._file.close()
            self._file = None

    def _write_start(self, start: RunStart) -> None:
        self._folder = start.folder
        self._file = (start.folder / metrics_file.METRICS_FILE).open("xb", buffering=0)
        self._lock = FileLock(self._folder / metrics_file.METRICS_FILE, required=False)
        self._lock.acquire()
        self._write_entry(
            "start",
            id=uuid.uuid4().hex,
            name=start.name,
            total_steps=start.total_steps,
            params={name: hide_credentials(value) for name, value in start.params.items()},
            tags=start.tags,
            constants=start.constants,
            dataset=start.dataset,
        )

    def _write_end(self, end: RunEnd) -> None:
        artifacts = [str(_relative_path(path, self._folder)) for path in end.artifacts]
        self._write_entry("end", **{**asdict(end), "artifacts": artifacts})

    def _write_entry(self, kind: str, **fields: Any) -> None:
        self._unwritten += metrics_file.encode_entry(kind, at_ms=time.time_ns() // 1_000_000, **fields)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:
            if not self._has_warned:
                print(
                    f"warning: {self._folder / metrics_file.METRICS_FILE} has to wait: {error}; training goes on",
                    file=sys.stderr,
                )
            self._has_warned = True


def _relative_path(path: Path, folder: Path) -> Path:
    """Relative to the run's folder where it lies in it, so that a copied folder still finds it."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()
