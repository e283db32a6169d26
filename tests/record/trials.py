"""Records of trials that other programs ran."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.events import Status
from harness.record.trial_record import Direction, TrialEnd, TrialRecord, TrialStart

TAGS = {"study": "rank", "harness.sweep": "5" * 32, "command": "python train.py --rank 8", "user": "ada",
        "git.commit": "c" * 40}  # fmt: skip


def make_start(number: int = 3, objective: str = "val/acc", direction: Direction = "maximize", **changes: Any) -> Any:
    given: dict[str, Any] = {
        "params": {"model.rank": "8", "optimizer.lr": "0.0003", "model._target_": "app.Net", "data.path": "/data"},
        "searched": {"optimizer.lr": 0.0003, "model.rank": 8},
        "objectives": {objective: direction},
        "tags": TAGS,
    }
    return TrialStart(str(number), **{**given, **changes})


def write_trial(
    folder: Path,
    values: Sequence[float] = (0.5, 0.9, 0.8),
    status: Status | None = "completed",
    curves: Mapping[str, Sequence[float]] = {},
    **changes: Any,
) -> Path:
    """Write the record of a trial that reported its objective at each step; one without a status has died."""
    start = make_start(int(folder.name), **changes)
    record, [objective] = TrialRecord(folder, start), start.objectives
    for step, value in enumerate(values, 1):
        others = {name: curve[step - 1] for name, curve in curves.items()}
        record.add_metrics(10 * step, {objective: value, **others}, total_steps=40)
    if status is None:
        record.close()
        return folder
    ended = {objective: values[-1]} if values else {}
    record.end(TrialEnd(status, "" if status == "completed" else "the reason", 1.5, ended))
    return folder
