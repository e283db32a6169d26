"""CSV and JSONL: a row a line, the steps in a column that is found by its name."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.readers.names import history_of, meaning
from harness.verdicts.history import Facts, History

PER_EPOCH = 100
"""Steps that stand for an epoch where only its fractions are told."""


def read_csv(path: Path) -> History:
    """Separated by commas, tabs or semicolons, with a line of names at the top."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter(text) or ",")
    return history(rows, path, "CSV")


def read_jsonl(path: Path) -> History:
    """An object a line, or a list of objects; what is nested has the names that lead to it."""
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return history((flat(row) for row in objects(text)), path, "JSONL")


def history(rows: Iterable[Mapping[str, Any]], path: Path, kind: str) -> History:
    """ValueError, with the names that there are, where no column tells the steps or none a loss."""
    columns: dict[str, list[tuple[int, float]]] = {}
    numbered = [numbers(row) for row in rows]
    names = {name: None for row in numbered for name in row}
    step = _column(names, "step") or _column(names, "epoch")
    if step is None:
        raise ValueError(_refusal(path, kind, names, "steps, such as step, global_step or epoch"))
    scale = PER_EPOCH if meaning(step) == "epoch" and any(row.get(step, 0) % 1 for row in numbered) else 1
    for row in numbered:
        if step in row:
            at = round(row[step] * scale)
            for name, value in row.items():
                columns.setdefault(name, []).append((at, value))
    if not any(meaning(name) in ("train/loss", "val/loss") for name in columns):
        raise ValueError(_refusal(path, kind, names, "losses, such as loss, train_loss or val_loss"))
    by = {"step": "", "epoch": f", {scale} steps for an epoch" if scale > 1 else ", a step for an epoch"}[meaning(step)]
    source = f"{kind} {path}: {len(numbered)} rows, steps from {step!r}{by}"
    return history_of(columns, Facts(name=path.stem, source=source))


def delimiter(text: str) -> str | None:
    """What separates the columns, if the first line names a step or a metric or stands over lines of numbers."""
    lines = [line for line in text.splitlines()[:10] if line.strip()]
    for mark in (",", "\t", ";"):
        first, *rows = csv.reader(lines, delimiter=mark)
        if len(first) > 1 and (any(map(meaning, first)) or (rows and _is_header(first, rows[0]))):
            return mark
    return None


def _is_header(first: list[str], row: list[str]) -> bool:
    cells = (dict(enumerate(line)) for line in (first, row))
    in_first, in_row = (len(numbers(line)) for line in cells)
    return len(row) == len(first) and not in_first and 2 * in_row >= len(row)


def objects(text: str) -> Iterator[Mapping[str, Any]]:
    """The objects of JSONL or of a JSON list; a line cut off at the end is passed over, any other is a ValueError."""
    if text.lstrip().startswith("["):
        yield from (row for row in json.loads(text) if isinstance(row, dict))
        return
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            if number == len(lines) > 1:
                return
            raise ValueError(f"line {number} is no JSON: {line[:60]!r}") from error
        if isinstance(row, dict):
            yield row


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in node.items():
        found |= flat(value, f"{prefix}{name}/") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
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


def _column(names: Iterable[str], wanted: str) -> str | None:
    return next((name for name in names if meaning(name) == wanted), None)


def _refusal(path: Path, kind: str, names: Iterable[str], wanted: str) -> str:
    return f"{path}: no column of this {kind} names {wanted}; it has {', '.join(names) or 'no numbers at all'}"
