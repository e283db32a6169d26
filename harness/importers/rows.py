"""Rows: what one line of a log, one row of a table or one JSON entry says, the same for all formats.

A format's module turns a file into rows and knows nothing of steps and epochs. `assemble_histories` turns the rows of
any format into histories: it tells runs apart, numbers the steps and chooses the names that stand for our metrics.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.metric_aliases import build_history, canonical_name
from harness.importers.step_numbering import StepCounter, infer_epochs, round_step, sort_by_step

MAX_ROWS = 2_000_000
PSEUDO_STEPS_PER_EPOCH = 100
"""Steps that stand for an epoch in a log with fractions of epochs and no steps."""


@dataclass(slots=True)
class Row:
    """Numbers by the names that the log gives them, and where in the run they belong; None where the log is silent.

    `step` and `epoch` are as logged: a step may restart in every epoch, and an epoch may be a fraction.
    """

    values: dict[str, float] = field(default_factory=dict)
    step: float | None = None
    epoch: float | None = None
    epoch_length: float | None = None  # steps, for logs that print it
    total_steps: float | None = None  # of the run, for logs that print it
    total_epochs: float | None = None
    run: str | None = None  # whose row it is, in a log of several runs
    location: str = ""  # in the file, for error messages


def check_row_count(rows: Sequence[object], path: Path) -> None:
    """Check that the rows read so far fit into memory, where each takes up to 1 KB.

    Raises:
        ValueError: If there are more than MAX_ROWS.
    """
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{path}: more than {MAX_ROWS:,} rows with numbers; give every tenth, or the last part")


def assemble_histories(rows: Sequence[Row], facts: RunFacts) -> list[History]:
    """Return the history of each run in `rows`, in the order of the file.

    Raises:
        ValueError: If no row has a step or an epoch, or a step is not finite.
    """
    return [_assemble_history(rows, facts)]


def _assemble_history(rows: Sequence[Row], facts: RunFacts) -> History:
    points: dict[str, list[tuple[int, float]]] = {}
    scale, note = 1, ""
    has_steps = any(row.step is not None for row in rows)
    if not has_steps:
        scale = PSEUDO_STEPS_PER_EPOCH if any((row.epoch or 0) % 1 for row in rows) else 1
        note = f", epochs as steps ({scale} per epoch)"
    numbered = list(_number_rows(rows, has_steps, scale))
    if has_steps and any(row.step is not None and round(row.step) != step for step, row in numbered):
        note = ", steps restart in every epoch"
    for step, row in numbered:
        for name, value in row.values.items():
            points.setdefault(name, []).append((step, value))
        if row.epoch is not None:
            points.setdefault("epoch", []).append((step, row.epoch))
    sorted_points = {name: sort_by_step(column) for name, column in points.items()}
    return build_history(sorted_points, replace(facts, source=facts.source + note))


def _number_rows(rows: Sequence[Row], has_steps: bool, scale: int) -> Iterator[tuple[int, Row]]:
    """Yield rows with their step of the run, which is that of the row before if a row has none."""
    if not has_steps:
        yield from ((round_step(row.epoch * scale, row.location), row) for row in rows if row.epoch is not None)
        return
    epochs: Sequence[float | None] = [row.epoch for row in rows]
    if not any(epoch is not None for epoch in epochs):
        names = Counter(name for row in rows for name in row.values if canonical_name(name) in LOSS_METRICS)
        loss = max(names, key=names.__getitem__, default=None)
        epochs = infer_epochs([row.step if loss in row.values else None for row in rows]) or epochs
    count, step = StepCounter(), None
    is_latest_first = epochs[0] is not None and epochs[-1] is not None and epochs[0] > epochs[-1]
    pairs = list(zip(rows, epochs, strict=True))
    for row, epoch in reversed(pairs) if is_latest_first else pairs:
        if row.step is not None:
            step = count(round_step(row.step, row.location), epoch, row.epoch_length)
        if step is not None:
            yield step, row
