"""plateau list: show the runs and the studies of output_dir, newest first."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from harness.commands.arguments import CommandParser, add_output_dir
from harness.core.errors import ConfigError
from harness.core.formatting import format_number
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

RUN_COLUMNS = ("run", "date", "status", "steps", "val loss", "experiment or model")
STUDY_COLUMNS = ("study", "date", "status", "val loss", "best trial")
NUMBER_COLUMNS = ("steps", "val loss", "best trial")
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
        print(*format_rows([RUN_COLUMNS, *map(_run_cells, runs)], width), sep="\n")
    if studies:
        header, *lines = format_rows([STUDY_COLUMNS, *map(_study_cells, studies)], width)
        print(*([""] if runs else []), header, sep="\n")
        for line, study in zip(lines, studies, strict=True):
            print(line, *_describe_trials(study), sep="\n")
    overviews: list[RunOverview | StudyOverview] = [*runs, *studies]
    damaged = [one.reason for one in overviews if one.status == DAMAGED]
    for reason in damaged[:MAX_EXPLAINED]:
        print(f"{DAMAGED}: {reason}")
    if len(damaged) > MAX_EXPLAINED:
        print(f"{DAMAGED}: {len(damaged) - MAX_EXPLAINED} more; --json has their reasons")


def format_rows(rows: Sequence[Sequence[str]], width: int | None) -> list[str]:
    """Return the rows of a table in lines of at most `width` columns; only the first and the last cell are shortened.

    What is left of a shortened name still names the run, as far as it is unique.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    excess = 0 if width is None else sum(widths) + len(GAP) * (len(widths) - 1) - width
    for column, least in ((-1, MIN_LAST), (0, MIN_FIRST), (-1, 1)):
        cut = max(0, min(excess, widths[column] - least))
        widths[column], excess = widths[column] - cut, excess - cut
    return [GAP.join(map(_fit_cell, row, widths, rows[0])).rstrip() for row in rows]


def _fit_cell(text: str, width: int, column: str) -> str:
    text = text if len(text) <= width else f"{text[: width - 1]}…"
    return text.rjust(width) if column in NUMBER_COLUMNS else text.ljust(width)


def _run_cells(run: RunOverview) -> tuple[str, ...]:
    steps = "" if run.step is None else str(run.step)
    return run.name, run.date, run.status, steps, _format_loss(run.best_val_loss), run.choice


def _study_cells(study: StudyOverview) -> tuple[str, ...]:
    return study.name, study.date, study.status, _format_loss(study.best_value), ",".join(study.best_trials)


def _describe_trials(study: StudyOverview) -> list[str]:
    """Return a line with the number of trials by status, if it is known."""
    if study.trials is None:
        return []
    counts = [f"{count} {status}" for status, count in study.trials.items()]
    return [f"{GAP}trials: {' · '.join(counts) or 'none yet'}"]


def _format_loss(loss: float | None) -> str:
    return "" if loss is None else format_number(loss)
