"""Rows: what one line of a log, one row of a table or one JSON entry says, the same for all formats.

A format's module turns a file into rows and knows nothing of runs, steps and epochs; harness.importers.assembly turns
the rows of any format into histories.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MAX_ROWS = 2_000_000


@dataclass(slots=True)
class Row:
    """Numbers by the names that the log gives them, and where in the run they belong; None where the log is silent.

    `step` and `epoch` are as logged, and finite: a step may restart in every epoch, and an epoch may be a fraction.
    """

    values: dict[str, float] = field(default_factory=dict)
    step: float | None = None
    epoch: float | None = None
    epoch_length: float | None = None  # steps, for logs that print it
    total_steps: float | None = None  # of the run, for logs that print it
    total_epochs: float | None = None
    run: str | None = None  # whose row it is, in a log of several runs
    rank: str | None = None  # of the process that logged it, in a log of several
    starts_log: bool = False  # a header or the configuration stands above it, as at the start of a run
    location: str = ""  # in the file, such as "line 5"


def check_row_count(rows: Sequence[object], path: Path) -> None:
    """Check that the rows read so far fit into memory, where each takes up to 1 KB.

    Raises:
        ValueError: If there are more than MAX_ROWS.
    """
    if len(rows) > MAX_ROWS:
        raise ValueError(f"{path}: more than {MAX_ROWS:,} rows with numbers; give every tenth, or the last part")
