"""plateau rescue [OVERRIDE ...|RUN]: from a plateaued training to a better configuration, in one command.

    plateau rescue experiment=headlines
    plateau rescue RUN --budget-runs 20

Checks the training; diagnoses RUN, or one run of the present configuration; derives a search space from the
diagnoses; sweeps it. Each stage prints what it found and the command that takes the next step by hand. The same
command continues a rescue that was interrupted or has failed.

The exit status is 0 with a result, also if no better configuration was shown; 1 if the training has a fault or a stage
failed; 2 for invalid input; 128 + the number of a signal.
"""

import argparse
import contextlib
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.arguments import (
    RUN_HELP,
    CommandParser,
    ParagraphFormatter,
    add_output_dir,
    add_overrides,
    parse_overrides,
)
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.core.terminal import print_fitted, print_notes
from harness.evidence.rescue.record import Ending, RescueRecord
from harness.evidence.rescue.stages import run_stages
from harness.record.run_lookup import RunNotFoundError, find_run

if TYPE_CHECKING:
    from harness.evidence.rescue.request import TrainingRescue  # imported when it is needed: it loads torch

DEFAULT_BUDGET_RUNS = 12
STATUS_FAULT = 1


def main(arguments: Sequence[str]) -> int:
    args = parse_overrides(_build_parser(), arguments)
    shown = [hide_credentials(word) for word in arguments if word != "--json"]
    rescue = _read_rescue(args, shlex.join(["plateau", "rescue", *shown]))
    from harness.evidence.rescue.training import list_training_stages

    record = RescueRecord(rescue.folder, rescue.command, rescue.inputs)
    with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
        print_notes(rescue.notices)
        runs = f"{rescue.budget_runs} whole run{'s' * (rescue.budget_runs > 1)}"
        print_fitted(f"rescue in {rescue.folder}; diagnosis and sweep may cost {runs}")
        ending = run_stages(list_training_stages(rescue, record), record, rescue.command)
        if ending:
            print_ending(ending, rescue.folder)
    if args.json:
        print(json.dumps(record.to_json(), indent=1, allow_nan=False))
    return STATUS_FAULT if ending and ending.result == "fault" else 0


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau rescue", description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("--budget-runs", type=int, default=DEFAULT_BUDGET_RUNS, metavar="N",
                        help="whole runs that diagnosis and sweep may cost (default: %(default)s)")  # fmt: skip
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder of the rescue (default: one in outputs/rescues)")
    parser.add_argument("--json", action="store_true", help="print rescue.json at the end, all else on standard error")
    add_overrides(parser, "OVERRIDE|RUN", f"; or {RUN_HELP}")
    add_output_dir(parser)
    return parser


def _read_rescue(args: argparse.Namespace, command: str) -> "TrainingRescue":
    """Return the rescue of the configuration or of the run that was named.

    Raises:
        ConfigError: If it is not valid.
    """
    from harness.evidence.rescue.request import read_training_rescue

    names = [word for word in args.overrides if _is_run(word)]
    if len(names) > 1:
        raise ConfigError(f"RUN: {' '.join(names)}: several runs; name one, and write settings as key=value")
    try:
        run = find_run(names[0], args.output_dir, "RUN") if names else None
    except RunNotFoundError as error:
        raise RunNotFoundError(f"{error}; settings are key=value") from error
    overrides = [word for word in args.overrides if word not in names]
    return read_training_rescue(overrides, run, args.budget_runs, args.to, command)


def _is_run(word: str) -> bool:
    """Return whether a word names a run: it is no override, or a path that exists."""
    is_override = "=" in word or word.startswith("~")
    with contextlib.suppress(OSError, ValueError):  # too long, a null character
        return not is_override or Path(word).exists()
    return not is_override


def print_ending(ending: Ending, folder: Path) -> None:
    """Print how a rescue ended, and what to do now."""
    print_fitted("", ending.sentence)
    if ending.command:
        print(f"train with it:\n  {ending.command}", flush=True)
    print_fitted(f"everything is in {folder}")
