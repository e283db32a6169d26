"""Find the damaged lines of a study's journal, and the lines that can be kept."""

import json
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.sweep.optuna_internals import CREATE_TRIAL, JournalReplay
from harness.sweep.study.trial_attrs import WORKER

MAX_RECORD_BYTES = 1 << 24
MAX_LOST_TRIALS = 64
"""Creations of trials that one damaged block of lines may have held."""


@dataclass(frozen=True)
class BadLine:
    """A damaged line: its number from 1, its first byte and what is wrong with it."""

    number: int
    offset: int
    problem: str

    def __str__(self) -> str:
        return f"line {self.number} (byte {self.offset}): {self.problem}"


@dataclass(frozen=True)
class JournalRepair:
    """Lines that can be kept of a damaged journal, each complete. `method` says how they were chosen."""

    bad_lines: tuple[BadLine, ...]
    kept: tuple[bytes, ...]
    method: str


def has_intact_end(journal: Path) -> bool:
    """Return whether the last complete line is JSON. Optuna notices only after another line has been appended."""
    if not journal.exists():
        return True
    with journal.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - MAX_RECORD_BYTES))
        complete, newline, _ = file.read().rpartition(b"\n")
    return not newline or _parse_line(complete.rpartition(b"\n")[2]) is not None


def describe_damage(journal: Path) -> ConfigError | None:
    """Return an error that names the first damaged line of a journal; None if there is none."""
    lines = read_complete_lines(journal)
    bad_lines = find_bad_lines(lines)
    if not bad_lines:
        return None
    more = f" and {len(bad_lines) - 1} more" if len(bad_lines) > 1 else ""
    return ConfigError(
        f"{journal}: {bad_lines[0]}{more}; `plateau repair {journal.parent}` keeps the other "
        f"{len(lines) - len(bad_lines)} lines, or those before"
    )


def read_complete_lines(journal: Path) -> list[bytes]:
    """Return the lines of a journal without an incomplete last one, which the next write removes."""
    with journal.open("rb") as file:
        return [line for line in file if line.endswith(b"\n")]


def find_bad_lines(lines: Sequence[bytes], *, is_strict: bool = False) -> list[BadLine]:
    """Return the lines at which Optuna would fail; with `is_strict` also those that belong to a missing trial."""
    replay, offset, found = JournalReplay(), 0, []
    for number, line in enumerate(lines, 1):
        record = _parse_line(line)
        problem = "not JSON" if record is None else replay.apply_record(record, is_strict=is_strict)
        if problem:
            found.append(BadLine(number, offset, problem))
        offset += len(line)
    return found


def plan_repair(lines: Sequence[bytes]) -> JournalRepair:
    """Return which lines of a damaged journal to keep.

    All but the damaged ones, if every later line then still belongs to its trial; otherwise those before the first.
    """
    bad_lines = find_bad_lines(lines)
    stripped = [line.strip(b"\0\n") + b"\n" for line in lines]  # a power failure leaves zeros before a line
    bad_numbers = {bad.number for bad in find_bad_lines(stripped)}
    rest = [line for number, line in enumerate(stripped, 1) if number not in bad_numbers]
    if not find_bad_lines(rest, is_strict=True):
        method = f"dropped {len(lines) - len(rest)} damaged lines; all others replay"
        return JournalRepair(tuple(bad_lines), tuple(rest), method)
    first = min(bad_numbers)
    if len(bad_numbers) == 1:
        study_id = next((r["study_id"] for r in map(_parse_line, reversed(rest[: first - 1])) if "study_id" in r), 0)
        for count in range(1, MAX_LOST_TRIALS + 1):
            filled = [*rest[: first - 1], *[_make_lost_trial(study_id)] * count, *rest[first - 1 :]]
            if not find_bad_lines(filled, is_strict=True):
                method = (
                    f"dropped 1 damaged line and put back the {count} trials that it had created; all others replay"
                )
                return JournalRepair(tuple(bad_lines), tuple(filled), method)
    method = f"kept the {first - 1} lines before the first damaged one; later lines belong to trials that it created"
    return JournalRepair(tuple(bad_lines), tuple(rest[: first - 1]), method)


def _make_lost_trial(study_id: int) -> bytes:
    """Return a record that creates a running trial of a dead process, so that the next sweep queues it again."""
    worker = {"host": socket.gethostname(), "pid": 0, "started_at": 0.0}
    record = {"op_code": CREATE_TRIAL, "worker_id": "repair", "study_id": study_id, "datetime_start": None}
    return json.dumps({**record, "user_attrs": {WORKER: worker}}).encode() + b"\n"


def _parse_line(line: bytes) -> Any:
    """Return what a line of JSON holds, None if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
