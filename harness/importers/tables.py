"""CSV and JSONL, one row per line. The columns of steps and losses are found by their names."""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.importers.assembly import assemble_histories
from harness.importers.metric_aliases import canonical_name, name_order
from harness.importers.rows import Row, check_row_count

PROGRESS_BAR = re.compile(r"\d%\|.*\[\S+<\S+, ")
"""A bar of tqdm: `Loading weights:   0%|          | 0/28 [00:00<?, ?it/s]`."""


def read_csv_histories(lines: Iterable[str], path: Path, delimiter: str) -> list[History]:
    """Read the lines of the file `path`, of which the first is a header."""
    reader = csv.DictReader((f"{line}\n" for line in lines), delimiter=delimiter)

    def iterate_rows() -> Iterator[tuple[str, Mapping[str, Any]]]:
        try:
            yield from ((f"line {reader.line_num}", row) for row in reader)
        except csv.Error as error:
            raise ValueError(f"{path}, line {reader.line_num + 1}: {error}; delete that column or row") from error

    return read_rows(iterate_rows(), path, "CSV")


def read_jsonl_histories(lines: Iterable[str], path: Path) -> list[History]:
    """Read the lines of the file `path`, one object per line. Nested keys are joined with slashes."""
    rows = ((location, flatten_row(row)) for location, row in iterate_objects(lines, path))
    return read_rows(rows, path, "JSONL")


def read_json_histories(content: Sequence[Any], path: Path) -> list[History]:
    """Read a JSON list of objects, the content of the file `path`. Nested keys are joined with slashes."""
    rows = ((f"object {at}", flatten_row(row)) for at, row in enumerate(content, 1) if isinstance(row, dict))
    return read_rows(rows, path, "JSONL")


def read_rows(located: Iterable[tuple[str, Mapping[str, Any]]], path: Path, kind: str) -> list[History]:
    """Return the histories of (location in the file, row) pairs.

    Raises:
        ValueError: If no column holds steps or none a loss, or a step is not finite.
    """
    values: list[tuple[str, dict[str, float]]] = []
    for location, row in located:
        values.append((location, numeric_values(row)))
        check_row_count(values, path)
    names = Counter(name for _, row in values for name in row)
    step, epoch = _find_column(names, "step"), _find_column(names, "epoch")
    if step is None and epoch is None:
        raise ValueError(_missing_column_message(path, kind, names, "steps, such as step, global_step or epoch"))
    if not any(canonical_name(name) in LOSS_METRICS for name in names):
        raise ValueError(_missing_column_message(path, kind, names, "losses, such as loss, train_loss or val_loss"))
    rows = [
        Row(
            values={name: value for name, value in row.items() if name not in (step, epoch)},
            step=row.get(step) if step else None,
            epoch=row.get(epoch) if epoch else None,
            location=f"{path}, {location}",
        )
        for location, row in values
    ]
    source = f"{kind} {path}: {len(rows)} rows, steps from column {step or epoch!r}"
    return assemble_histories(rows, RunFacts(name=path.stem, source=source))


def detect_delimiter(text: str) -> str | None:
    """Return the delimiter if the first line is a header: it names a step or a metric, or precedes rows of numbers."""
    lines = [line for line in text.splitlines()[:10] if line.strip()]
    if lines and PROGRESS_BAR.search(lines[0]):  # its `, 5.0it/s` looks like a column
        return None
    for delimiter in (",", "\t", ";"):
        try:
            first, *rows = csv.reader(lines, delimiter=delimiter)
        except csv.Error:  # reported where the rows are read
            first, *rows = csv.reader(lines[:1], delimiter=delimiter)
        if len(first) > 1 and (any(map(canonical_name, first)) or (rows and _is_header(first, rows[0]))):
            return delimiter
    return None


def _is_header(first: list[str], row: list[str]) -> bool:
    in_first, in_row = (len(numeric_values(dict(enumerate(line)))) for line in (first, row))
    return len(row) == len(first) and not in_first and 2 * in_row >= len(row)


def iterate_objects(lines: Iterable[str], path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (location, object) pairs of JSONL.

    A truncated last line is skipped: the run may still be writing. Any other invalid line is a ValueError.
    """
    n_lines, invalid = 0, None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if invalid:
            break
        n_lines += 1
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            invalid = f"{path}, line {number}: invalid JSON: {line[:60]!r}"
            continue
        if isinstance(row, dict):
            yield f"line {number}", row
    else:
        if not invalid or n_lines > 1:
            return
    raise ValueError(invalid)


def flatten_row(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the row without nesting, as in {"train/loss": 3.2} for {"train": {"loss": 3.2}}."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        flat |= flatten_row(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat


def numeric_values(row: Mapping[Any, Any]) -> dict[str, float]:
    """Return the numbers of a row, without the minima and maxima that W&B exports."""
    numbers = {}
    for name, value in row.items():
        name = str(name).strip()
        if not name.endswith(("__MIN", "__MAX")) and not isinstance(value, bool | list):
            try:
                numbers[name] = float(value)
            except (TypeError, ValueError):
                continue
    return numbers


def _find_column(names: Mapping[str, int], concept: str) -> str | None:
    """Return the column for "step" or "epoch" present in most rows; ties go to the most specific name."""
    columns = [name for name in names if canonical_name(name) == concept]
    return max(columns, key=lambda name: (names[name], -name_order(name)), default=None)


def _missing_column_message(path: Path, kind: str, names: Iterable[str], wanted: str) -> str:
    return f"{path}: this {kind} has no column for {wanted}; its numeric columns: {', '.join(names) or 'none'}"
