"""Lists of losses: one number a line, and nothing else."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.histories import assemble_histories
from harness.importers.rows import Row, check_row_count

MIN_NUMBERS = 10
NUMBER = re.compile(r"\s*[-+]?(?:\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|nan|inf)\s*,?\s*", re.IGNORECASE)


def is_number_list(lines: Sequence[str]) -> bool:
    """Return whether the lines are at least MIN_NUMBERS numbers, some with fractions, and nothing else."""
    filled = [line for line in lines if line.strip()]
    is_list = len(filled) >= MIN_NUMBERS and all(map(NUMBER.fullmatch, filled))
    return is_list and sum("." in line for line in filled) > len(filled) / 2


def read_number_list(lines: Iterable[str], path: Path) -> list[History]:
    """Read the numbers in the lines of the file `path` as training losses.

    Raises:
        ValueError: If a line is no number, or there are too many.
    """
    rows: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if NUMBER.fullmatch(line) is None:
            raise ValueError(f"{path}, line {number}: no number in a list of losses; delete the line")
        rows.append(Row({"loss": float(line.strip().rstrip(","))}, location=f"{path}, line {number}"))
        check_row_count(rows, path)
    return assemble_histories(rows, RunFacts(name=path.stem, source=f"list {path}: {len(rows)} numbers as losses"))
