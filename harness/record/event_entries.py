"""The entries of metrics.jsonl that an event leads to, by kind:

- start: the fields of RunStart and a unique `id`
- continued: `step` and `seconds` of the checkpoint from which the run was continued, since times have a gap there
- metrics: the fields of MetricRow; `is_partial` only if it is true
- notice: `text`, a message for people
- spike, diagnosis, final_diagnosis, end: the fields of the event

`harness.record.trial_record` lists those of a trial that another program ran.
"""

import time
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.core.events import Diagnosis, Event, FinalDiagnosis, RunEnd, RunStart, Spike
from harness.record.metric_rows import MetricRow, describe_event


def make_entries(event: Event, row: MetricRow | None, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the entries of an event in the run of `folder`, and of the row of metrics that it completes."""
    if isinstance(event, RunStart) and event.past is not None:
        yield make_entry("continued", step=event.past.step, seconds=event.past.seconds)
    elif isinstance(event, RunStart):
        fields = asdict(event)
        del fields["folder"], fields["log_every"], fields["past"]
        yield make_entry("start", id=uuid.uuid4().hex, **fields)
    if row is not None:
        fields = asdict(row)
        if not row.is_partial:
            del fields["is_partial"]
        yield make_entry("metrics", **fields)
    text = describe_event(event)
    if text is not None:
        yield make_entry("notice", text=text)
    match event:
        case Spike():
            yield make_entry("spike", **asdict(event))
        case Diagnosis():
            # nested: the diagnosis has a field `kind` too
            yield make_entry("diagnosis", diagnosis=asdict(event))
        case FinalDiagnosis():
            yield make_entry("final_diagnosis", **asdict(event))
        case RunEnd():
            artifacts = [_to_name(path, folder) for path in event.artifacts]
            yield make_entry("end", **{**asdict(event), "artifacts": artifacts})


def make_entry(kind: str, **fields: Any) -> dict[str, Any]:
    """Return an entry with these fields, recorded now."""
    return {"kind": kind, "at_ms": time.time_ns() // 1_000_000, **fields}


def _to_name(path: Path, folder: Path) -> str:
    """Return the path relative to the run's folder if it lies there, so that the folder can be copied."""
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path.absolute())
