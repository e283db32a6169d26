"""The record of a trial that another program ran: the task function of a Hydra app, or a command.

It is like the metrics.jsonl of our own runs, with these differences:

- start: `effective` is null, since the settings in effect are unknown; `total_steps` is null if unknown. `searched`
  holds the trial's values by key, and `objectives` the direction of each objective by its name
- metrics: any names; `total_steps` once the program has said it
- checkpoint: `path` of one that the program has reported, and a `stamp` of its content then
- continue: the trial was paused or interrupted at `step`, after `seconds` of training
- end: `values`, the objectives by name, in place of `best_val_loss` and `best_step`
"""

import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from harness.core.credentials import hide_credentials_in_text, hide_secret_settings, hide_secret_words
from harness.core.errors import ConfigError
from harness.core.events import Status
from harness.core.files import FileLock
from harness.record.entry_writer import EntryWriter
from harness.record.event_entries import make_entry
from harness.record.metrics_file import TRIAL_FILE, read_entries

Direction = Literal["minimize", "maximize"]
Entry = Mapping[str, Any]  # of metrics.jsonl

OUTPUT_LOG = "output.log"
"""The output of a command, in the folder of its trial."""
OWN_OBJECTIVE = "best_val_loss"  # of our own runs


@dataclass(frozen=True)
class TrialStart:
    """A trial that another program is about to run.

    Args:
        name: The number of the trial, which is the name of its folder.
        params: All settings of the program as flat texts, as far as they are known.
        searched: Those of the trial, by key; empty for the program as it stands.
        objectives: The direction of each objective by its name, the main one first.
        tags: As our runs have them: command, study and sweep, user, commit and machine.
        overrides: Those that the program's configuration was composed from, if it has one.
        total_steps: The length of the run, if it is known.
    """

    name: str
    params: Mapping[str, str]
    searched: Mapping[str, Any]
    objectives: Mapping[str, Direction]
    tags: Mapping[str, str]
    overrides: Sequence[str] = ()
    total_steps: int | None = None


@dataclass(frozen=True)
class TrialEnd:
    """End of a trial: `values` are its objectives by name, `artifacts` names of files in its folder to upload."""

    status: Status
    reason: str = ""
    seconds: float = 0.0
    values: Mapping[str, float] = field(default_factory=dict)
    artifacts: Sequence[str] = (OUTPUT_LOG,)


@dataclass(frozen=True)
class RecordedCheckpoint:
    """A checkpoint that the program of a trial has reported, with a stamp of its content at that moment."""

    path: str
    stamp: str


@dataclass
class RecordedProgress:
    """The progress of a trial by its record: its last step, that of its end, seconds, and the newest checkpoint."""

    step: int = -1
    total_steps: int | None = None
    seconds: float = 0.0
    checkpoint: RecordedCheckpoint | None = None


class TrialRecord:
    """Record a trial in its `folder`, as an `EntryWriter` does. Credentials are left out of all settings.

    Args:
        is_continued: Continue the record that the folder has, if there is one. Values until its last step are then
            ignored, since the program repeats the steps after its checkpoint.

    Raises:
        FileExistsError: If the folder has the record of another trial.
        DamageError: If the record to continue is damaged.
    """

    def __init__(self, folder: Path, start: TrialStart, *, is_continued: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / TRIAL_FILE
        length: int | None = None
        self.progress = RecordedProgress()
        if is_continued and path.exists():
            with FileLock(path, required=False):  # children of a killed process may hold it for some seconds
                self.progress, length = read_progress(path)
        self._writer = EntryWriter(path, length)
        self._step, self._known_step = max(0, self.progress.step), self.progress.step
        if length:
            self._writer.write([make_entry("continue", step=self._step, seconds=self.progress.seconds)])
        else:
            self._write_start(start)
        self._writer.flush()

    def _write_start(self, start: TrialStart) -> None:
        self._writer.write([make_entry(
            "start",
            id=uuid.uuid4().hex,
            name=start.name,
            total_steps=start.total_steps,
            params=hide_secret_settings(start.params),
            effective=None,
            tags={name: hide_credentials_in_text(str(text)) for name, text in start.tags.items()},
            constants={},
            dataset={},
            overrides=hide_secret_words(start.overrides),
            searched={key: _to_plain_value(value) for key, value in start.searched.items()},
            objectives=dict(start.objectives),
        )])  # fmt: skip

    def add_metrics(self, step: int, metrics: Mapping[str, float], total_steps: int | None = None) -> None:
        """Record values at a step, and how many steps the run will have, if the program says so."""
        if step <= self._known_step:
            return
        self._step, self._known_step = int(step), -1
        numbers = {name: float(value) for name, value in metrics.items()}
        length = {} if total_steps is None else {"total_steps": int(total_steps)}
        self._writer.write([make_entry("metrics", step=self._step, tokens=None, metrics=numbers, units={}, **length)])

    def add_checkpoint(self, checkpoint: RecordedCheckpoint) -> None:
        """Record a checkpoint from which the trial can be continued."""
        self._writer.write([make_entry("checkpoint", **asdict(checkpoint))])

    def add_notice(self, text: str) -> None:
        """Record a message for people."""
        self._writer.write([make_entry("notice", text=hide_credentials_in_text(text))])

    def end(self, end: TrialEnd) -> None:
        """Record the end, and close the file. One that is paused or interrupted may be continued."""
        self._writer.write([make_entry(
            "end",
            status=end.status,
            reason=hide_credentials_in_text(end.reason),
            step=self._step,
            tokens=0,
            seconds=end.seconds,
            values={name: float(value) for name, value in end.values.items()},
            artifacts=list(end.artifacts),
        )])  # fmt: skip
        self.close()

    def close(self) -> None:
        """Close the file; without an end, the trial counts as one whose process died."""
        self._writer.close()


def read_progress(path: Path) -> tuple[RecordedProgress, int]:
    """Return the progress by the record of a trial, and the bytes of it that remain if the trial is continued.

    Raises:
        DamageError: If the record is damaged.
    """
    progress, length, began_at, seconds_before = RecordedProgress(), 0, 0, 0.0
    for entry, offset in read_entries(path):
        if entry["kind"] == "end":
            progress.seconds = float(entry["seconds"])
            break
        if entry["kind"] in ("start", "continue"):
            began_at, seconds_before = entry["at_ms"], float(entry.get("seconds", 0))
        if entry["kind"] == "metrics":
            progress.step, progress.total_steps = int(entry["step"]), entry.get("total_steps", progress.total_steps)
        if entry["kind"] == "checkpoint":
            progress.checkpoint = RecordedCheckpoint(str(entry["path"]), str(entry["stamp"]))
        progress.seconds = seconds_before + (entry["at_ms"] - began_at) / 1000  # a killed process records no end
        length = offset
    return progress, length


def is_foreign(start: Entry) -> bool:
    """Return whether another program ran what this start entry begins."""
    return start.get("effective", "") is None


def is_foreign_folder(folder: Path) -> bool:
    """Return whether a folder has the record of a trial that another program ran."""
    return (folder / TRIAL_FILE).is_file()


def check_own_run(folder: Path, key: str) -> None:
    """Check that the run in `folder` is not the trial of another program.

    Raises:
        ConfigError: If another program ran it.
    """
    if is_foreign_folder(folder):
        raise ConfigError(
            f"{key}: {folder} was run by another program, whose files this command cannot read; `plateau diagnose` "
            "and `plateau sync` take such trials"
        )


def read_directions(node: Entry) -> dict[str, Direction]:
    """Return the direction of each objective in a start entry or in the summary of a sweep, the main one first."""
    return dict(node.get("objectives") or {OWN_OBJECTIVE: "minimize"})


def name_metric(objective: str) -> str:
    """Return the name of an objective below `sweep/` in the metrics of a sweep."""
    return objective.removeprefix("best_")


def name_best_metric(objective: str) -> str:
    """Return the name of its best value there."""
    return f"best_{name_metric(objective)}"


def name_curve(objective: str) -> str:
    """Return the metric that has the values of an objective during a run."""
    return "val/loss" if objective == OWN_OBJECTIVE else objective


def read_values(start: Entry, end: Entry) -> dict[str, float]:
    """Return the objectives of a run by name, from its first and last entry."""
    if not is_foreign(start):
        return {OWN_OBJECTIVE: float(end[OWN_OBJECTIVE])}
    return {name: float(value) for name, value in end["values"].items()}


def find_best(values: Sequence[float], direction: Direction) -> float | None:
    """Return the best finite value, None without any."""
    finite = [value for value in values if math.isfinite(value)]
    return (max if direction == "maximize" else min)(finite, default=None)


def _to_plain_value(value: Any) -> Any:
    return value if isinstance(value, bool | int | float | None) else hide_credentials_in_text(str(value))
