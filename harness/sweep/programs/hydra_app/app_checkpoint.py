"""The checkpoint of a trial of an app: which one it continues from, and which one it has reported last."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from harness.core.credentials import hide_credentials_in_text
from harness.core.errors import DamageError
from harness.record.metrics_file import TRIAL_FILE
from harness.record.trial_record import RecordedCheckpoint, TrialRecord, read_progress
from harness.sweep.trial_runner import TrialJob

NOTE_FILE = "checkpoint_note.json"
"""In the folder of a sweep: the first problem with checkpoints that the app has to solve."""
REMEDY = (
    "save each trial in a folder of its own, such as ${hydra:runtime.output_dir}, and leave a checkpoint as it is until"
    " the next report"
)


class TrialCheckpoint:
    """The checkpoint of a running trial.

    Its content must stay as it was reported: another trial may have written to the same file, or the process may have
    been killed while it wrote. One that has changed is never continued from, and none after it is used.
    """

    def __init__(self, job: TrialJob, record: TrialRecord) -> None:
        self._job, self._record = job, record
        self._latest, self._recorded = record.progress.checkpoint, record.progress.checkpoint
        self._is_refused = False
        self._has_warned = False

    def find_start(self) -> str | None:
        """Return the checkpoint to continue from; None if the trial starts over."""
        if not self._job.is_continued:
            return None
        if self._latest is None:  # the record may be on another machine
            self._latest = _stamp_or_none(self._job.checkpoint)
        if path := self.find_intact():
            return path
        if not self._is_refused:
            self._record.add_notice(
                f"{self.path or self._job.checkpoint}: the checkpoint is gone; the trial starts over"
            )
        return None

    def take_report(self, path: str | None, *, is_last: bool = False) -> None:
        """Take the checkpoint that a report of the app names, if it names one; none at the last step of the run."""
        if is_last:
            self._latest = None
        if path is None or is_last or self._is_refused:
            return
        checkpoint = _stamp_or_none(path)
        if checkpoint is None:
            self._warn(f"report: checkpoint: {path}: does not exist, so it is ignored; save it before the report")
        else:
            self._latest = checkpoint

    @property
    def path(self) -> str:
        """Path of the latest checkpoint, or an empty text."""
        return self._latest.path if self._latest else ""

    def find_intact(self) -> str:
        """Return the path of the latest checkpoint if it is as it was reported, else an empty text."""
        if self._latest is None or self._is_refused:
            return ""
        present = _stamp_or_none(self._latest.path)
        if present is None:
            return ""
        if present != self._latest:
            self._is_refused = True
            self._warn(f"report: checkpoint: {present.path}: was changed, so the trial cannot continue; {REMEDY}")
            return ""
        return present.path

    def record_latest(self) -> None:
        """Record the latest checkpoint; call it after the values of its step are recorded."""
        if self._latest is not None and self._latest != self._recorded:
            self._record.add_checkpoint(self._latest)
            self._recorded = self._latest

    def _warn(self, text: str) -> None:
        """Warn once, in the record, in the worker's log, and at the end of the sweep."""
        if self._has_warned:
            return
        self._has_warned = True
        text = hide_credentials_in_text(f"trial {self._job.number}: {text}")
        self._record.add_notice(text)
        print(f"warning: {text}", file=sys.stderr)
        with suppress(OSError), (self._job.folder.parent / NOTE_FILE).open("x") as file:  # the first one of the sweep
            file.write(json.dumps({"note": text}))


def find_recorded_start(job: TrialJob) -> str | None:
    """Return what `TrialCheckpoint.find_start` returns in the first process of the trial, which writes its record."""
    if not job.is_continued:
        return None
    recorded = None
    with suppress(OSError, DamageError):
        recorded = read_progress(job.folder / TRIAL_FILE)[0].checkpoint
    recorded = recorded or _stamp_or_none(job.checkpoint)
    return recorded.path if recorded is not None and recorded == _stamp_or_none(recorded.path) else None


def read_checkpoint_note(folder: Path) -> tuple[str, ...]:
    """Return the note on the checkpoints of a sweep, if there is one."""
    try:
        return (str(json.loads((folder / NOTE_FILE).read_text())["note"]),)
    except (OSError, ValueError, LookupError, TypeError):
        return ()


def _stamp_or_none(path: str) -> RecordedCheckpoint | None:
    """Return a file or folder with size and time of its content; None if it cannot be read.

    A folder is known by its largest file: programs may write logs beside their weights.
    """
    try:
        stats = [os.stat(file) for file in _iterate_files(path)]
    except OSError:
        return None
    largest = max(stats, key=lambda stat: (stat.st_size, stat.st_mtime_ns), default=None)
    return RecordedCheckpoint(path, f"{largest.st_size} {largest.st_mtime_ns}" if largest else "")


def _iterate_files(path: str) -> Iterator[str]:
    if not os.path.isdir(path):
        yield path
    for folder, _, names in os.walk(path):
        yield from (os.path.join(folder, name) for name in names)
