"""Histories of records: which fields are the step, the epoch, the run and the losses is found by their names."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly import assemble_histories
from harness.importers.loss_columns import choose_losses
from harness.importers.metric_aliases import POSITIONS, SUMMARY_KEY, canonical_name, name_order, normalize_name
from harness.importers.record_set import (
    INDEX_NAMES,
    RANK_NAMES,
    RUN_NAMES,
    RecordSet,
    collect_records,
    is_loss_like,
)
from harness.importers.rows import Row
from harness.importers.table_shapes import (
    check_is_log,
    find_split,
    name_losses_by_split,
    pivot_long_table,
    separate_runs_by_column,
)

Located = tuple[str, Mapping[str, Any], bool]
"""Location in the file, fields, and whether a header stands above."""


def read_records(
    located: Iterable[Located], path: Path, kind: str, facts: RunFacts | None = None, notes: Sequence[str] = ()
) -> list[History]:
    """Return the histories of the runs in the records of the file `path`.

    Raises:
        ValueError: If no field holds a loss, the records are those of several runs with one record each, or a step is
            not finite.
    """
    found = collect_records(located, path, kind)
    pivot_long_table(found)
    separate_runs_by_column(found)
    names = found.count_names()
    if not any(is_loss_like(name) for name in names):
        raise ValueError(_missing_loss_message(found))
    if split := find_split(found):
        name_losses_by_split(found, split)
    positions = {concept: _find_position(found, concept) for concept in sorted(POSITIONS)}
    check_is_log(found, positions["step"], positions["epoch"])
    if positions["step"] is None and positions["epoch"] is None:
        positions["step"] = _find_index(found)
    choose_losses(found, found.count_names())
    rows = _build_rows(found, positions)
    column = positions["step"] or positions["epoch"]
    source = f"{kind} {path}: {len(rows)} rows" + (f", steps from column {column!r}" if column else "")
    source += "".join(f"; {note}" for note in (*notes, *found.notes))
    return assemble_histories(rows, replace(facts or RunFacts(name=path.stem), source=source))


def _build_rows(found: RecordSet, positions: Mapping[str, str | None]) -> list[Row]:
    runs, rank = _find_run_columns(found), next(iter(found.text_columns(RANK_NAMES)), None)
    step, epoch, total_steps, total_epochs = (
        positions[concept] for concept in ("step", "epoch", "total_steps", "total_epochs")
    )
    roles: dict[str, bool] = {}
    rows = []
    for record in found.records:
        numbers, texts = record.numbers, record.texts
        if SUMMARY_KEY in numbers:
            continue
        values = {}
        for name, number in numbers.items():
            is_metric = roles.get(name)
            if is_metric is None:
                metric = canonical_name(name)
                is_metric = roles[name] = metric is not None and metric not in POSITIONS
            if is_metric:
                values[name] = number
        rows.append(
            Row(
                values=values,
                step=numbers.get(step) if step else None,
                epoch=numbers.get(epoch) if epoch else None,
                total_steps=numbers.get(total_steps) if total_steps else None,
                total_epochs=numbers.get(total_epochs) if total_epochs else None,
                run=" ".join(texts[name] for name in runs if name in texts) if runs else None,
                rank=texts.get(rank) if rank else None,
                starts_log=record.starts_log,
                location=f"{found.path}, {record.location}",
            )
        )
    return rows


def _find_position(found: RecordSet, concept: str) -> str | None:
    """Return the field for a step, an epoch or a length that is in most records; ties go to the most specific name.

    A field with one value throughout says nothing of where a record belongs, unless there is no other.
    """
    counts: Counter[str] = Counter()
    values: dict[str, set[float]] = {}
    for record in found.records:
        for name, number in record.numbers.items():
            if canonical_name(name) == concept:
                counts[name] += 1
                if len(seen := values.setdefault(name, set())) < 2:
                    seen.add(number)
    is_length = concept.startswith("total")
    return max(
        counts, key=lambda name: (is_length or len(values[name]) > 1, counts[name], -name_order(name)), default=None
    )


def _find_index(found: RecordSet) -> str | None:
    """Return the column of row numbers that pandas writes, if its numbers increase."""
    for name in found.count_names():
        numbers = [record.numbers[name] for record in found.records if name in record.numbers]
        if normalize_name(name) in INDEX_NAMES and all(first < second for first, second in pairwise(numbers)):
            return name
    return None


def _find_run_columns(found: RecordSet) -> list[str]:
    """Return the columns that name one of several runs of more than one record each."""
    columns = []
    for column in found.text_columns(RUN_NAMES):
        values = found.text_values(column)
        if 1 < len(values) <= sum(values.values()) / 1.5:
            columns.append(column)
    return columns


def _missing_loss_message(found: RecordSet) -> str:
    names: Counter[str] = Counter()
    for number in found.sample:
        names.update(str(name) for name, value in number.items() if isinstance(value, int | float) or _is_number(value))
    return (
        f"{found.path}: this {found.kind} has no column for losses, such as loss, train_loss or val_loss; "
        f"its numeric columns: {', '.join(names) or 'none'}"
    )


def _is_number(value: Any) -> bool:
    from harness.importers.cells import parse_cell

    return parse_cell(value) is not None
