"""Options, output and exit status of the commands that run configurations on fresh seeds."""

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from harness.commands.arguments import SEED_FLAG, CommandParser, add_output_dir, join_option_value
from harness.core.credentials import hide_secret_words
from harness.core.errors import ConfigError, RunFailedError

if TYPE_CHECKING:
    from harness.evidence.seed_runs import SeedRunOptions
    from harness.sweep.study_run import StudyEnd

STATUS_INCOMPLETE = 1
OptionsT = TypeVar("OptionsT", bound="SeedRunOptions")


def add_seed_run_options(parser: CommandParser) -> None:
    """Add how a sweep's configurations are run again with other seeds, and within which budget."""
    add = parser.add_argument
    add(SEED_FLAG, metavar="NAME",
        help="how the program takes its seed: an option such as --seed, a key such as seed= or a variable such as "
        "SEED; default: seed, if it has one")  # fmt: skip
    add("--test-metric", metavar="NAME",
        help="what a program of yours calls its result on test data, beside the metric of the sweep")  # fmt: skip
    add("--n-jobs", type=int, metavar="N", help="number of workers; default: as in the sweep")
    add("--devices-per-trial", type=int, metavar="N", help="devices of a run; default: as in the sweep, or one")
    add("--max-seconds", type=float, metavar="S", help="start no run after this time")
    add("--max-tokens", type=int, metavar="N", help="start no run after so many tokens")
    add("--storage", metavar="URL", help="database of the study, if its address has a password")
    add("--dry-run", action="store_true", help="print what would be run, and run nothing")
    add("--json", action="store_true", help="print the result as JSON, and all else to standard error")
    add_output_dir(parser)


def parse_seed_run_arguments(parser: CommandParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Parse the arguments of a command with the options of `add_seed_run_options`."""
    return parser.parse_args(join_option_value(arguments, SEED_FLAG))


def make_options(
    kind: type[OptionsT], args: argparse.Namespace, command: str, arguments: Sequence[str], **own: Any
) -> OptionsT:
    """Return the options of a command, whose `arguments` are recorded; `own` are those that only it has.

    Raises:
        ConfigError: If a value is invalid.
    """
    from harness.sweep.rerun import RerunOptions

    try:
        return kind(
            seeds=args.seeds,
            max_seconds=args.max_seconds,
            max_tokens=args.max_tokens,
            rerun=RerunOptions(args.seed_flag, args.test_metric, args.n_jobs, args.devices_per_trial),
            command=shlex.join(["plateau", command, *hide_secret_words(arguments)]),
            **own,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def print_json(document: Mapping[str, Any]) -> None:
    """Print a result as JSON."""
    from harness.record.metrics_file import encode_nonfinite

    print(json.dumps(encode_nonfinite(document), indent=1, allow_nan=False), flush=True)


def conclude_command(is_complete: bool, failure: str, folder: Path, end: "StudyEnd") -> int:
    """Return the exit status.

    Raises:
        RunFailedError: If the result is not complete, since runs failed or the command was interrupted.
    """
    if is_complete:
        return 0
    if failure:
        raise RunFailedError(f"failed: {failure}; the logs are in {folder}; fix the cause, then run the same command")
    end.raise_if_not_completed()
    return STATUS_INCOMPLETE
