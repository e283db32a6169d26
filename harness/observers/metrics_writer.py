"""The plain record: metrics.jsonl in the run's folder, which everything that shows a run later reads."""

import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from harness.core.events import Conclusion, Event, Observer, RunEnd, RunStart, Spike, Verdict
from harness.record import metrics_file
from harness.record.metric_rows import Window, message
from harness.tracking.store_uri import shown


class Jsonl(Observer):
    """Writes each line at once; what a full disk refuses is kept and tried again with the next line."""

    def __init__(self) -> None:
        self._window = Window()
        self._file: BinaryIO | None = None
        self._unwritten = bytearray()
        self._has_warned = False

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._begin(event)
        row = self._window(event)
        if row is not None:
            self._write("metrics", **asdict(row))
        text = message(event)
        if text is not None:
            self._write("notice", text=text)
        match event:
            case Spike():
                self._write("spike", **asdict(event))
            case Verdict():
                self._write("verdict", verdict=asdict(event))
            case Conclusion():
                self._write("conclusion", **asdict(event))
        if isinstance(event, RunEnd):
            self._end(event)

    def close(self) -> None:
        if self._file is not None:
            self._flush()
            metrics_file.release(self._file)
            self._file.close()
            self._file = None

    def _begin(self, start: RunStart) -> None:
        self._folder = start.folder
        self._file = (start.folder / metrics_file.NAME).open("xb", buffering=0)
        metrics_file.hold(self._file)
        self._write(
            "start",
            id=uuid.uuid4().hex,
            name=start.name,
            total_steps=start.total_steps,
            params={name: shown(value) for name, value in start.params.items()},
            tags=start.tags,
            constants=start.constants,
            dataset=start.dataset,
        )

    def _end(self, end: RunEnd) -> None:
        artifacts = [str(_within(path, self._folder)) for path in end.artifacts]
        self._write("end", **{**asdict(end), "artifacts": artifacts})

    def _write(self, kind: str, **fields: Any) -> None:
        self._unwritten += metrics_file.encode(kind, at_ms=time.time_ns() // 1_000_000, **fields)
        self._flush()

    def _flush(self) -> None:
        try:
            while self._unwritten:
                del self._unwritten[: self._file.write(self._unwritten)]
        except OSError as error:
            if not self._has_warned:
                print(
                    f"warning: {self._folder / metrics_file.NAME} has to wait: {error}; training goes on",
                    file=sys.stderr,
                )
            self._has_warned = True


def _within(path: Path, folder: Path) -> Path:
    """Relative to the run's folder where it lies in it, so that a copied folder still finds it."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()
