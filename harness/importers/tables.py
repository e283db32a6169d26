"""CSV and JSONL: a row a line, the steps in a column that is found by its name."""

import csv
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.metric_aliases import ALIAS_ORDER, build_history, canonical_name, normalize_name
from harness.importers.step_numbering import StepCounter, infer_epochs, round_step, sort_by_step

NumberedRows = list[tuple[int, dict[str, float]]]
"""Rows by their steps."""

STEPS_PER_EPOCH = 100
"""Steps that stand for an epoch where only its fractions are told."""


def read_csv_history(path: Path) -> History:
    """Separated by commas, tabs or semicolons, with a line of names at the top."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=detect_delimiter(text) or ",")
    try:
        rows = [(f"line {reader.line_num}", row) for row in reader]
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num + 1}: {error}; leave that column or row out") from error
    return history_from_rows(rows, path, "CSV")


def read_jsonl_history(path: Path) -> History:
    """An object a line, or a list of objects; what is nested has the names that lead to it."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return history_from_rows([(place, flatten_row(row)) for place, row in iterate_objects(text, path)], path, "JSONL")


def history_from_rows(placed: Sequence[tuple[str, Mapping[str, Any]]], path: Path, kind: str) -> History:
    """From rows and where each stands. ValueError, with the names that there are, where no column tells the steps or
    none a loss; with its place where a step is no number."""
    rows = [(place, numeric_values(row)) for place, row in placed]
    names = Counter(name for _, row in rows for name in row)
    step = _find_column(names, "step") or _find_column(names, "epoch")
    if step is None:
        raise ValueError(_missing_column_message(path, kind, names, "steps, such as step, global_step or epoch"))
    if not any(canonical_name(name) in LOSS_METRICS for name in names):
        raise ValueError(_missing_column_message(path, kind, names, "losses, such as loss, train_loss or val_loss"))
    is_epoch = canonical_name(step) == "epoch"
    scale = STEPS_PER_EPOCH if is_epoch and any(row.get(step, 0) % 1 for _, row in rows) else 1
    numbered = [(round_step(row[step] * scale, f"{path}, {place}"), row) for place, row in rows if step in row]
    counted = numbered if is_epoch else _continue_steps(numbered, _find_column(names, "epoch"))
    columns: dict[str, list[tuple[int, float]]] = {}
    for at, row in counted:
        for name, value in row.items():
            columns.setdefault(name, []).append((at, value))
    by = (f", {scale} steps for an epoch" if scale > 1 else ", a step for an epoch") if is_epoch else ""
    if any(at != before for (at, _), (before, _) in zip(counted, numbered, strict=True)):
        by = ", which begin anew in every epoch and are counted on"
    source = f"{kind} {path}: {len(rows)} rows, steps from {step!r}{by}"
    return build_history(
        {name: sort_by_step(points) for name, points in columns.items()}, RunFacts(name=path.stem, source=source)
    )


def _continue_steps(rows: NumberedRows, epoch: str | None) -> NumberedRows:
    """In the order of the file, with the steps of the run."""
    if epoch:
        epochs = [row.get(epoch) for _, row in rows]
    else:
        losses = Counter(name for _, row in rows for name in row if canonical_name(name) in LOSS_METRICS)
        loss = max(losses, key=losses.__getitem__, default=None)
        epochs = infer_epochs([step if loss in row else None for step, row in rows])
    if epochs is None:
        return rows
    is_latest_first = epochs[0] is not None and epochs[-1] is not None and epochs[0] > epochs[-1]
    count, order = StepCounter(), range(len(rows))[:: -1 if is_latest_first else 1]
    at = {index: count(rows[index][0], epochs[index]) for index in order}
    return [(at[index], row) for index, (_, row) in enumerate(rows)]


def detect_delimiter(text: str) -> str | None:
    """What separates the columns, if the first line names a step or a metric or stands over lines of numbers."""
    lines = [line for line in text.splitlines()[:10] if line.strip()]
    for mark in (",", "\t", ";"):
        try:
            first, *rows = csv.reader(lines, delimiter=mark)
        except csv.Error:  # what is wrong is told where the rows are read
            first, *rows = csv.reader(lines[:1], delimiter=mark)
        if len(first) > 1 and (any(map(canonical_name, first)) or (rows and _is_header(first, rows[0]))):
            return mark
    return None


def _is_header(first: list[str], row: list[str]) -> bool:
    cells = (dict(enumerate(line)) for line in (first, row))
    in_first, in_row = (len(numeric_values(line)) for line in cells)
    return len(row) == len(first) and not in_first and 2 * in_row >= len(row)


def iterate_objects(text: str, path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of JSONL or of a JSON list, and where each stands; a line cut off at the end is passed over, any
    other is a ValueError."""
    if text.lstrip().startswith("["):
        yield from ((f"object {at}", row) for at, row in enumerate(json.loads(text), 1) if isinstance(row, dict))
        return
    lines = [(f"line {number}", line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    for place, line in lines:
        try:
            row = json.loads(line)
        except ValueError as error:
            if place == lines[-1][0] and len(lines) > 1:
                return
            raise ValueError(f"{path}: {place} is no JSON: {line[:60]!r}") from error
        if isinstance(row, dict):
            yield place, row


def flatten_row(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in row.items():
        found |= flatten_row(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def numeric_values(row: Mapping[str, Any]) -> dict[str, float]:
    """What of a row is a number, by names without the ends that W&B gives to extremes."""
    found = {}
    for name, value in row.items():
        name = str(name).strip()
        if not name.endswith(("__MIN", "__MAX")) and not isinstance(value, bool | list):
            try:
                found[name] = float(value)
            except (TypeError, ValueError):
                continue
    return found


def _find_column(names: Mapping[str, int], concept: str) -> str | None:
    """Of several that which most rows have, the likelier name first."""
    fitting = [name for name in names if canonical_name(name) == concept]
    return max(fitting, key=lambda name: (names[name], -ALIAS_ORDER[normalize_name(name)]), default=None)


def _missing_column_message(path: Path, kind: str, names: Iterable[str], wanted: str) -> str:
    return f"{path}: no column of this {kind} names {wanted}; it has {', '.join(names) or 'no numbers at all'}"
