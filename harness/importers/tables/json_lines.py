"""JSON lines and JSON objects one after another, also with lines of text between them."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History
from harness.importers.tables.records import Located, read_records

BARE_NUMBER = re.compile(r"([:\[,]\s*)([-+]?)(nan|inf|infinity)\b", re.IGNORECASE)
PROBE_LINES = 60
"""Number of lines that decide whether a file is JSON with lines of text between."""


def read_json_lines(lines: Iterable[str], path: Path) -> list[History]:
    """Read the lines of the file `path`, one object per line. Lines of text between them are left out.

    Raises:
        ValueError: If most lines are text, or the objects hold no losses.
    """
    notes: list[str] = []
    return read_records(_iterate_records(lines, path, notes), path, "JSONL", notes=notes)


def parse_json(text: str) -> Any:
    """Return the parsed value, or None for invalid JSON. Numbers may also be nan and inf, in any spelling."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        if not BARE_NUMBER.search(text):
            return None
    try:
        return json.loads(BARE_NUMBER.sub(_spell_number, text))
    except (ValueError, RecursionError):
        return None


def has_json_lines(head: str) -> bool:
    """Return whether half of the first lines are JSON objects."""
    lines = [line for line in head.splitlines()[:PROBE_LINES] if line.strip()]
    objects = sum(line.lstrip().startswith("{") and isinstance(parse_json(line), dict) for line in lines)
    return objects > 0 and 2 * objects >= len(lines)


def flatten_object(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the fields without nesting, as in {"train/loss": 3.2} for {"train": {"loss": 3.2}}."""
    if not prefix and not any(isinstance(value, dict) for value in fields.values()):
        return dict(fields)
    flat: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            flat |= flatten_object(value, f"{prefix}{name}/")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _spell_number(match: re.Match[str]) -> str:
    name = "NaN" if match[3].lower() == "nan" else f"{match[2].replace('+', '')}Infinity"
    return match[1] + name


def _iterate_records(lines: Iterable[str], path: Path, notes: list[str]) -> Iterator[Located]:
    """Yield a record per line; `notes` says how many lines were left out, but for an incomplete last one.

    Raises:
        ValueError: If most lines are no objects.
    """
    n_objects = n_others = 0
    first_other, is_last_cut = "", False
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        fields = parse_json(line) if line.lstrip().startswith(("{", "[")) else None
        if isinstance(fields, dict):
            n_objects += 1
            is_last_cut = False
            yield f"line {number}", flatten_object(fields), False
        else:
            n_others += 1
            first_other = first_other or f"line {number}: {line.strip()[:60]!r}"
            is_last_cut = line.lstrip().startswith("{")
    n_others -= is_last_cut  # the run may still be writing
    if n_others > n_objects or (n_others and n_objects < 2):
        raise ValueError(
            f"{path}: {n_others} of {n_others + n_objects} lines are no JSON objects, such as {first_other}"
        )
    if n_others:
        notes.append(f"{n_others} line{'s' * (n_others > 1)} without JSON left out, such as {first_other}")
