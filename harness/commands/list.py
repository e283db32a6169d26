"""plateau list: show the runs and the studies of output_dir, newest first."""

import json
import os
import sys
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from harness.commands.arguments import CommandParser, add_output_dir
from harness.core.errors import ConfigError
from harness.core.formatting import format_number, objective_label
from harness.core.paths import run_command
from harness.core.terminal import find_width
from harness.record.run_listing import (
    DAMAGED,
    RunOverview,
    StudyOverview,
    read_run_overview,
    read_study_overview,
)
from harness.record.run_lookup import list_runs, list_studies

VALUE, BEST_TRIAL = "best value", "best trial"  # the value where the runs have different objectives
TEST_LOSS = "test loss"  # a column if a run has one
RUN_COLUMNS = ("run", "date", "status", "steps", VALUE, TEST_LOSS, "experiment or model")
STUDY_COLUMNS = ("study", "date", "status", VALUE, BEST_TRIAL)
T = TypeVar("T", RunOverview, StudyOverview)
GAP = "  "
MIN_FIRST, MIN_LAST = 10, 10  # columns that the first and the last cell keep
MAX_EXPLAINED = 10  # damaged folders whose damage is described


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        prog="plateau list",
        description=__doc__,
        epilog="Other commands take a run's name, the date of its folder, their beginnings, or `last`; "
        "trials are STUDY/best or STUDY/3.",
    )
    parser.add_argument("--json", action="store_true", help="print everything that is known, as JSON")
    add_output_dir(parser)
    args = parser.parse_args(arguments)
    if args.output_dir.exists() and not args.output_dir.is_dir():
        raise ConfigError(f"--output-dir: {args.output_dir}: not a folder; name the one that holds the runs")
    runs = [read_run_overview(run) for run in list_runs(args.output_dir)]
    studies = [read_study_overview(study) for study in list_studies(args.output_dir)]
    try:
        print_overview(runs, studies, args.output_dir, args.json)
        sys.stdout.flush()
    except BrokenPipeError:  # `plateau list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails again at exit
    return 0


def print_overview(
    runs: Sequence[RunOverview], studies: Sequence[StudyOverview], output_dir: Path, as_json: bool
) -> None:
    """Print two tables, or one JSON object with the lists `runs` and `studies`."""
    if as_json:
        print(json.dumps({"runs": list(map(asdict, runs)), "studies": list(map(asdict, studies))}, indent=1))
        return
    if not runs and not studies:
        print(f"no runs in {output_dir} yet; record one with {' '.join(run_command())} optimizer=adamw schedule=cosine")
        return
    width = find_width()
    if runs:
        print(*_format_run_table(runs, width), sep="\n")
    if studies:
        header, *lines = _format_table(STUDY_COLUMNS, studies, _study_cells, width)
        print(*([""] if runs else []), header, sep="\n")
        for line, study in zip(lines, studies, strict=True):
            print(line, *_describe_trials(study), sep="\n")
    overviews: list[RunOverview | StudyOverview] = [*runs, *studies]
    damaged = [one.reason for one in overviews if one.status == DAMAGED]
    for reason in damaged[:MAX_EXPLAINED]:
        print(f"{DAMAGED}: {reason}")
    if len(damaged) > MAX_EXPLAINED:
        print(f"{DAMAGED}: {len(damaged) - MAX_EXPLAINED} more; --json has their reasons")


def _format_run_table(runs: Sequence[RunOverview], width: int | None) -> list[str]:
    """Return the table of runs, without the column of test losses if there are none."""
    if any(run.test_loss is not None for run in runs):
        return _format_table(RUN_COLUMNS, runs, _run_cells, width)
    index = RUN_COLUMNS.index(TEST_LOSS)
    columns = (*RUN_COLUMNS[:index], *RUN_COLUMNS[index + 1 :])

    def make_cells(run: RunOverview, is_labeled: bool) -> Sequence[str]:
        cells = _run_cells(run, is_labeled)
        return (*cells[:index], *cells[index + 1 :])

    return _format_table(columns, runs, make_cells, width)


def _format_table(
    columns: Sequence[str], overviews: Sequence[T], make_cells: Callable[[T, bool], Sequence[str]], width: int | None
) -> list[str]:
    """Return a header and a line for each run or study; the objective they share stands in the header."""
    objectives = {one.objective for one in overviews}
    shared = "" if len(objectives) > 1 else objective_label(*objectives)
    header = [shared or column if column == VALUE else column for column in columns]
    rows: list[Sequence[str]] = [make_cells(one, not shared) for one in overviews]
    numbers = {index for index, column in enumerate(columns) if column in ("steps", VALUE, TEST_LOSS, BEST_TRIAL)}
    return format_rows([header, *rows], width, numbers)


def format_rows(rows: Sequence[Sequence[str]], width: int | None, numbers: Container[int]) -> list[str]:
    """Return the rows of a table in lines of at most `width` columns; only the first and the last cell are shortened.

    The columns `numbers` are aligned at the right.

    What is left of a shortened name still names the run, as far as it is unique.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = 0 if width is None else sum(widths) + len(GAP) * (len(widths) - 1) - width
    for column, least in ((-1, MIN_LAST), (0, MIN_FIRST), (-1, 1)):
        cut = max(0, min(excess, widths[column] - least))
        widths[column], excess = widths[column] - cut, excess - cut
    are_numbers = [index in numbers for index in range(len(widths))]
    return [GAP.join(map(_fit_cell, row, widths, are_numbers)).rstrip() for row in rows]


def _fit_cell(text: str, width: int, is_number: bool) -> str:
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    return text.rjust(width) if is_number else text.ljust(width)


def _run_cells(run: RunOverview, is_labeled: bool) -> tuple[str, ...]:
    steps = "" if run.step is None else str(run.step)
    test_loss = "" if run.test_loss is None else format_number(run.test_loss)
    return run.name, run.date, run.status, steps, _format_value(run, is_labeled), test_loss, run.choice


def _study_cells(study: StudyOverview, is_labeled: bool) -> tuple[str, ...]:
    return study.name, study.date, study.status, _format_value(study, is_labeled), ",".join(study.best_trials)


def _describe_trials(study: StudyOverview) -> list[str]:
    """Return a line with the number of trials by status, if it is known."""
    if study.trials is None:
        return []
    counts = [f"{count} {status}" for status, count in study.trials.items()]
    return [f"{GAP}trials: {' · '.join(counts) or 'none yet'}"]


def _format_value(one: RunOverview | StudyOverview, is_labeled: bool) -> str:
    """Return the best value of a run or study, with the name of the objective if others have another one."""
    if one.best_value is None:
        return ""
    label = f"{objective_label(one.objective)} " if is_labeled else ""
    return f"{label}{format_number(one.best_value)}"
