"""Histories of records: which fields are the step, the epoch, the run and the losses is found by their names."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.histories import assemble_histories
from harness.importers.metric_aliases import POSITIONS, SUMMARY_KEY, canonical_name, name_order, normalize_name
from harness.importers.rows import Row
from harness.importers.tables.loss_columns import choose_losses
from harness.importers.tables.record_set import (
    INDEX_NAMES,
    RANK_NAMES,
    RUN_NAMES,
    RecordSet,
    collect_records,
    is_loss_like,
)
from harness.importers.tables.shapes import (
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
    names = found.count_names()
    if pivot_long_table(found, names) or separate_runs_by_column(found, names):
        names = found.count_names()
    if not any(is_loss_like(name) for name in names):
        raise ValueError(_missing_loss_message(found))
    if split := find_split(found):
        name_losses_by_split(found, split, names)
        names = found.count_names()
    positions = {concept: _find_position(found, names, concept) for concept in sorted(POSITIONS)}
    check_is_log(found, names, positions["step"] or positions["epoch"])
    if positions["step"] is None and positions["epoch"] is None:
        positions["step"] = _find_index(found, names)
    choose_losses(found, names)
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
    found.records.reverse()
    while found.records:  # which frees their memory
        record = found.records.pop()
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
        for position in (step, epoch):
            if position in numbers and not math.isfinite(numbers[position]):
                place, number = f"{found.path}, {record.location}", numbers[position]
                raise ValueError(f"{place}: the {position} is {number}; set it to a number or delete the row")
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
                location=record.location,
            )
        )
    return rows


def _find_position(found: RecordSet, names: Counter[str], concept: str) -> str | None:
    """Return the field for a step, an epoch or a length that is in most records; ties go to the most specific name.

    A field with one value throughout says nothing of where a record belongs, unless there is no other.
    """
    candidates = [name for name in names if canonical_name(name) == concept]
    is_length = concept.startswith("total")

    def rank(name: str) -> tuple[bool, int, int]:
        return is_length or _varies(found, name), names[name], -name_order(name)

    return candidates[0] if len(candidates) == 1 else max(candidates, key=rank, default=None)


def _varies(found: RecordSet, name: str) -> bool:
    numbers = (record.numbers[name] for record in found.records if name in record.numbers)
    first = next(numbers, None)
    return any(number != first for number in numbers)


def _find_index(found: RecordSet, names: Iterable[str]) -> str | None:
    """Return the column of row numbers that pandas writes, if its numbers increase."""
    for name in names:
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
    from harness.importers.tables.cells import parse_cell

    return parse_cell(value) is not None
