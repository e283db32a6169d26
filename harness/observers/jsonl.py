"""The plain record: metrics.jsonl in the run's folder, which everything that shows a run later reads."""

import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from harness.events import Event, Observer, RunEnd, RunStart
from harness.observers import record
from harness.observers.window import Window, message


class Jsonl(Observer):
    """Writes each line whole and at once; a full disk ends the record with a warning, never the run."""

    def __init__(self) -> None:
        self._window = Window()
        self._file: BinaryIO | None = None

    def __call__(self, event: Event) -> None:
        if isinstance(event, RunStart):
            self._begin(event)
        row = self._window(event)
        if row is not None:
            self._write("metrics", **asdict(row))
        text = message(event)
        if text is not None:
            self._write("notice", text=text)
        if isinstance(event, RunEnd):
            self._end(event)

    def close(self) -> None:
        if self._file is not None:
            record.release(self._file)
            self._file.close()
            self._file = None

    def _begin(self, start: RunStart) -> None:
        self._folder = start.folder
        self._file = (start.folder / record.NAME).open("xb", buffering=0)
        record.hold(self._file)
        self._write(
            "start",
            id=uuid.uuid4().hex,
            name=start.name,
            total_steps=start.total_steps,
            params=start.params,
            tags=start.tags,
            constants=start.constants,
            dataset=start.dataset,
        )

    def _end(self, end: RunEnd) -> None:
        artifacts = [str(_within(path, self._folder)) for path in end.artifacts]
        self._write("end", **{**asdict(end), "artifacts": artifacts})

    def _write(self, kind: str, **fields: Any) -> None:
        if self._file is None:
            return
        line = record.encode(kind, at_ms=time.time_ns() // 1_000_000, **fields)
        try:
            if self._file.write(line) < len(line):
                raise OSError("no space for a whole line")
        except OSError as error:
            print(f"warning: {self._folder / record.NAME} ends here: {error}; training goes on", file=sys.stderr)
            self.close()


def _within(path: Path, folder: Path) -> Path:
    """Relative to the run's folder where it lies in it, so that a copied folder still finds it."""
    return path.relative_to(folder) if path.is_relative_to(folder) else path.absolute()
