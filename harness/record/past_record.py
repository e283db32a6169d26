"""The record of a run when it saved a checkpoint: written into the checkpoint, and read where it is continued."""

import io
from collections.abc import Iterator, Mapping
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from harness.core.errors import DamageError
from harness.core.events import Diagnosis, PastRecord, StepEnd, Suggestion
from harness.diagnosis.history import SpikeRecord
from harness.record.metric_rows import MetricRow
from harness.record.metrics_file import parse_entries


def encode_position(past: PastRecord) -> dict[str, Any]:
    """Return the length of the record, the seconds so far and the steps without a row, as JSON holds them."""
    return {"n_bytes": past.n_bytes, "seconds": past.seconds, "pending": [list(astuple(one)) for one in past.pending]}


def read_past_record(path: Path, step: int, position: Mapping[str, Any]) -> PastRecord:
    """Return the record at `path` up to a position of `encode_position`, of the checkpoint of `step`.

    Raises:
        ValueError: If it is shorter, or damaged before that position.
        OSError: If it cannot be read.
    """
    n_bytes = int(position["n_bytes"])
    with path.open("rb") as file:
        content = file.read(n_bytes)
    if len(content) < n_bytes:
        raise DamageError(f"{path}: {len(content)} bytes, but the checkpoint of step {step} was saved after {n_bytes}")
    pending = tuple(StepEnd(*fields) for fields in position["pending"])
    past = PastRecord(step, float(position["seconds"]), n_bytes, pending)
    return replace(past, entries=tuple(entry for entry, _ in parse_entries(io.BytesIO(content), path)))


def read_past_rows(past: PastRecord | None) -> Iterator[MetricRow]:
    """Yield the rows that a continued run has recorded; none of a new run."""
    for entry in past.entries if past else ():
        if entry["kind"] == "metrics":
            yield MetricRow(entry["step"], entry["tokens"], entry["metrics"], entry["units"])


def read_spike(entry: Mapping[str, Any]) -> SpikeRecord:
    """Return the spike in an entry of that kind."""
    start, stop = entry["example_range"]
    return SpikeRecord(
        entry["step"],
        entry["last_good_step"],
        float(entry["loss"]),
        float(entry["baseline_loss"]),
        (start, stop),
        entry["restored_step"],
    )


def read_diagnosis(recorded: Mapping[str, Any]) -> Diagnosis:
    """Return a diagnosis that was recorded."""
    suggestions = tuple(Suggestion(**one) for one in recorded["suggestions"])
    return Diagnosis(**{**recorded, "suggestions": suggestions})
