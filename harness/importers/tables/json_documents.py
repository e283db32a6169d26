"""JSON documents: trainer_state.json, lists of objects, columns as lists (Keras), objects one after another."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from harness.diagnosis.history import History
from harness.importers.metric_aliases import canonical_name, normalize_name
from harness.importers.tables.json_lines import flatten_object, parse_json
from harness.importers.tables.record_set import is_loss_like
from harness.importers.tables.records import Located, read_records

MAX_DEPTH = 4  # of a table in a document
MAX_EPOCHS = 1_000
"""A list of more numbers without steps holds rows, not epochs."""
INDEX_KEY = re.compile(r"(?:epoch|step|iteration|iter)?[\s_-]*(\d+)", re.IGNORECASE)
JSON_LINE = re.compile(r'\s*[\[\]{}]+,?\s*|\s*"[^"]*"\s*:.*|\s*[-+\d.eE"][^:]*,?\s*')
STEP_WORDS = {"step", "steps", "batch", "batches", "iter", "iters", "iteration", "iterations"}
CHART_COLUMNS = ("Wall time", "Step", "Value")


class ParsedText(NamedTuple):
    """Values one after another in a text that begins as JSON, and where one is cut off."""

    values: list[Any]
    n_text_lines: int
    cut_at: int | None  # offset of the start of the value that the end of the text cuts off
    error: str  # of the first invalid value


def read_json_document(text: str, path: Path) -> list[History] | None:
    """Read the text of the file `path`, which begins as JSON; None if it is no JSON after all.

    Raises:
        ValueError: If the document is cut off or invalid, or holds no curve of a loss.
    """
    from harness.importers.programs.trainer_state import read_trainer_state

    value = parse_json(text)
    if value is None:
        document = _parse_values(text)
        objects = [one for one in document.values if isinstance(one, dict)]
        if document.cut_at is not None and (len(objects) < 2 or "log_history" in text[:100_000]):
            raise ValueError(_cut_off_message(text, path))
        if len(objects) < 2 or document.n_text_lines > 2 * len(objects):
            if document.error and _looks_like_json(text):
                raise ValueError(f"{path}: invalid JSON: {document.error}; give the file as it was written")
            return None
        notes = [f"{document.n_text_lines} lines without JSON left out"] if document.n_text_lines else []
        return read_records(_locate("object", objects), path, "JSON", notes=notes)
    if isinstance(value, dict) and "log_history" in value:
        return [read_trainer_state(value, path)]
    table = _find_table(value) or _read_row(value)
    if table is None:
        raise ValueError(f"{path}: JSON without a curve of a loss{_describe_keys(value)}; {EXPECTED}")
    located, notes = table
    return read_records(located, path, "JSON", notes=notes)


EXPECTED = "expected a list of objects, lists of numbers by name, JSONL, or a trainer_state.json"
Table = tuple[list[Located], list[str]]


def _parse_values(text: str) -> ParsedText:
    values: list[Any] = []
    decoder, position, n_lines, error = json.JSONDecoder(), 0, 0, ""
    gap = re.compile(r"[\s,]*")
    while True:
        position = gap.match(text, position).end()  # type: ignore[union-attr]  # matches anything
        if position >= len(text):
            return ParsedText(values, n_lines, None, error)
        if text[position] in "{[":
            try:
                value, position = decoder.raw_decode(text, position)
                values.append(value)
                continue
            except RecursionError:
                return ParsedText(values, n_lines, None, "it is nested too deeply")
            except json.JSONDecodeError as failed:
                if _is_cut(text, failed.pos, failed.msg):
                    return ParsedText(values, n_lines, position, error)
                error = error or f"line {failed.lineno}, column {failed.colno}: {failed.msg}"
        n_lines += 1
        end = text.find("\n", position)
        position = len(text) if end < 0 else end


def _is_cut(text: str, position: int, message: str) -> bool:
    """Return whether an error of the decoder is due to the end of the text."""
    rest = text[position:].strip()
    return not rest or message.startswith("Unterminated string") or re.fullmatch(r"[\w.+-]{1,24}", rest) is not None


def _looks_like_json(text: str) -> bool:
    lines = [line for line in text[:200_000].splitlines() if line.strip()]
    return sum(JSON_LINE.fullmatch(line) is not None for line in lines) > 0.8 * len(lines)


def _cut_off_message(text: str, path: Path) -> str:
    n_lines, n_bytes = text.rstrip().count("\n") + 1, len(text.encode())
    last = text.rstrip().rpartition("\n")[2].strip()[-60:]
    return (
        f"{path}: JSON that is cut off in line {n_lines}, after {n_bytes:,} bytes, at {last!r}; "
        "copy the file again, or give an earlier checkpoint's"
    )


def _describe_keys(value: Any) -> str:
    if not isinstance(value, dict):
        return ""
    keys = ", ".join(map(str, list(value)[:8]))
    finals = all(isinstance(one, int | float | str | bool | None) for one in value.values())
    return f"; it has {'only final values: ' if finals else 'the keys '}{keys}{', …' * (len(value) > 8)}"


def _find_table(value: Any, depth: int = 0) -> Table | None:
    """Return the records of the largest table with a loss in a document."""
    tables = []
    if isinstance(value, list):
        tables.append(_read_list(value))
    elif isinstance(value, dict):
        tables += [_read_indexed_rows(value), _read_columns(value)]
        if depth < MAX_DEPTH:
            tables += [_find_table(child, depth + 1) for child in value.values() if isinstance(child, dict | list)]
    found = [table for table in tables if table is not None and _has_loss(table[0])]
    return max(found, key=lambda table: len(table[0]), default=None)


def _has_loss(located: Sequence[Located]) -> bool:
    names = {name for _, fields, _ in located[:50] for name in fields}
    is_long = {normalize_name(name) for name in names} & {"value", "metricvalue", "metric_value"}
    return any(map(is_loss_like, names)) or bool(is_long)


def _read_row(value: Any) -> Table | None:
    """Read the only line of JSONL: an object with a step."""
    fields = flatten_object(value) if isinstance(value, dict) else {}
    has_step = any(canonical_name(name) == "step" for name in fields)
    return (_locate("object", [fields]), []) if has_step and any(map(is_loss_like, fields)) else None


def _read_list(values: Sequence[Any]) -> Table | None:
    if values and all(isinstance(one, list) and len(one) == len(CHART_COLUMNS) for one in values[:10]):
        rows = [dict(zip(CHART_COLUMNS, one, strict=False)) for one in values if isinstance(one, list)]
        return _locate("row", rows), []
    objects = [one for one in values if isinstance(one, dict)]
    return (_locate("object", objects), []) if objects else None


def _locate(what: str, objects: Sequence[Mapping[str, Any]]) -> list[Located]:
    return [(f"{what} {at}", flatten_object(one), False) for at, one in enumerate(objects, 1)]


def _read_indexed_rows(value: Mapping[str, Any]) -> Table | None:
    """Read objects by their number, as in {"1": {"loss": 3.2}, "2": {"loss": 3.1}}."""
    indices = [INDEX_KEY.fullmatch(str(key)) for key in value]
    if not value or not all(indices) or not all(isinstance(one, dict) for one in value.values()):
        return None
    rows: list[Located] = []
    for match, one in zip(indices, value.values(), strict=True):
        fields = flatten_object(one)
        if match and not any(canonical_name(name) in ("step", "epoch") for name in fields):
            fields["epoch" if match[0][0] in "eE0123456789" else "step"] = float(match[1])
        rows.append((f"key {match[0]!r}" if match else "", fields, False))
    return rows, []


def _read_columns(value: Mapping[str, Any]) -> Table | None:
    """Read lists of numbers by name, as Keras saves them; also nested, or by row number as pandas does."""
    columns = dict(_iterate_columns(value))
    losses = [name for name in columns if is_loss_like(name)]
    if not losses:
        return None
    main = max(losses, key=lambda name: (len(columns[name]), canonical_name(name) == "train/loss"))
    length = len(columns[main])
    fields: list[dict[str, Any]] = [{} for _ in range(length)]
    notes = []
    for name, column in columns.items():
        if len(column) == length:
            for row, number in zip(fields, column, strict=True):
                row[name] = number
    for name, column in columns.items():
        if 0 < len(column) < length and (is_loss_like(name) or canonical_name(name) == "train/lr"):
            notes.append(f"{name}: {len(column)} values spread evenly over {length}")
            for at, number in enumerate(column, 1):
                fields[round(at * length / len(column)) - 1][name] = number
    _add_positions(fields, main)
    return _locate("row", fields), notes


def _iterate_columns(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    for name, column in value.items():
        if isinstance(column, list) and column and not any(isinstance(one, dict | list) for one in column):
            yield f"{prefix}{name}", column
        elif isinstance(column, dict) and column and all(str(key).isdigit() for key in column):
            yield f"{prefix}{name}", list(column.values())
        elif isinstance(column, dict) and prefix.count("/") < MAX_DEPTH:
            yield from _iterate_columns(column, f"{prefix}{name}/")


def _add_positions(fields: Sequence[dict[str, Any]], main: str) -> None:
    """Number the rows as epochs, unless they have positions or are too many or by name those of steps."""
    if any(canonical_name(name) in ("step", "epoch") for name in fields[0]):
        return
    is_by_step = STEP_WORDS & set(normalize_name(main).split("_"))
    if len(fields) <= MAX_EPOCHS and not is_by_step:
        for at, row in enumerate(fields, 1):
            row["epoch"] = float(at)
