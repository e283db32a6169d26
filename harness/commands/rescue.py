"""plateau rescue [OVERRIDE ...|RUN|STUDY]: from a plateaued training to a better configuration, in one command.

    plateau rescue experiment=headlines
    plateau rescue RUN --budget-runs 20
    plateau rescue STUDY --seed-flag --seed

Checks the training; diagnoses RUN, or one run of the configuration as it is, which is the baseline; derives a search
space from the diagnoses; sweeps it; confirms the best trial on fresh seeds and data that no trial has seen; writes a
report. A STUDY, of any program, is diagnosed, confirmed and reported. Each stage prints what it found and the command
that takes the next step by hand. The same command continues a rescue that was interrupted or has failed.

The exit status is 0 with a result, also if no better configuration was shown; 1 if the training has a fault or a stage
failed; 2 for invalid input; 128 + the number of a signal.
"""

import argparse
import contextlib
import json
import shlex
from collections.abc import Sequence
from pathlib import Path

from harness.commands.arguments import (
    RUN_HELP,
    SEED_FLAG,
    CommandParser,
    ParagraphFormatter,
    add_output_dir,
    add_overrides,
    join_option_value,
    parse_overrides,
    redirect_to_stderr,
)
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.core.terminal import print_fitted, print_notes
from harness.evidence.rescue.record import Ending, RescueRecord
from harness.evidence.rescue.stages import Rescue, run_stages
from harness.record.metrics_file import encode_nonfinite
from harness.record.run_lookup import RunNotFoundError, find_run, is_study_folder

DEFAULT_BUDGET_RUNS, DEFAULT_TOP, DEFAULT_SEEDS = 12, 1, 5
STUDY_OPTIONS = ("seed_flag", "test_metric", "storage")
STATUS_FAULT = 1


def main(arguments: Sequence[str]) -> int:
    args = parse_overrides(_build_parser(), join_option_value(arguments, SEED_FLAG))
    command = shlex.join(["plateau", "rescue", *(hide_credentials(word) for word in arguments if word != "--json")])
    with redirect_to_stderr(args.json):
        rescue = _plan_rescue(args)
        record = RescueRecord(rescue.folder, command, rescue.inputs)
        print_notes(rescue.notices)
        print_fitted(f"rescue in {rescue.folder}: {rescue.summary}")
        ending = run_stages(rescue.stages, record, command)
        if ending:
            print_ending(ending, rescue.folder)
    if args.json:
        print(json.dumps(encode_nonfinite(record.to_json()), indent=1, allow_nan=False))
    return STATUS_FAULT if ending and ending.result == "fault" else 0


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau rescue", description=__doc__, formatter_class=ParagraphFormatter)
    add = parser.add_argument
    add("--budget-runs", type=int, default=DEFAULT_BUDGET_RUNS, metavar="N",
        help="whole runs that diagnosis and sweep may cost; default: %(default)s")  # fmt: skip
    add("--top", type=int, default=DEFAULT_TOP, metavar="N", help="confirm the best N trials; default: %(default)s")
    add("--seeds", type=int, default=DEFAULT_SEEDS, metavar="N",
        help="fresh seeds of each at most; default: %(default)s")  # fmt: skip
    add("--to", type=Path, metavar="DIR", help="folder of the rescue; default: one in outputs/rescues, or in the study")
    add(SEED_FLAG, metavar="NAME", help="of a STUDY: how its program takes its seed, as in plateau confirm")
    add("--test-metric", metavar="NAME", help="of a STUDY: what its program calls its result on test data")
    add("--storage", metavar="URL", help="of a STUDY: its database, if the address has a password")
    add("--json", action="store_true", help="print rescue.json at the end, and all else to standard error")
    add_overrides(parser, "OVERRIDE|RUN|STUDY", f"; or {RUN_HELP}; or a study's name or folder")
    add_output_dir(parser)
    return parser


def _plan_rescue(args: argparse.Namespace) -> Rescue:
    """Return the rescue of the configuration, the run or the study that was named.

    Raises:
        ConfigError: If it is not valid.
    """
    from harness.evidence.confirm.from_study import ConfirmOptions
    from harness.sweep.rerun import RerunOptions

    names = [word for word in args.overrides if _is_name(word)]
    overrides = [word for word in args.overrides if word not in names]
    if len(names) > 1:
        raise ConfigError(f"RUN|STUDY: {' '.join(names)}: name one, and write settings as key=value")
    try:
        rerun = RerunOptions(args.seed_flag, args.test_metric)
        options = ConfirmOptions(top=args.top, seeds=args.seeds, rerun=rerun)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    path = _find_named(names[0], args.output_dir) if names else None
    if path is not None and is_study_folder(path):
        if overrides:
            raise ConfigError(f"{overrides[0]}: a study has its own settings; leave it out")
        from harness.evidence.rescue.from_study import plan_study_rescue

        return plan_study_rescue(path, args.to, options, args.storage)
    for name in STUDY_OPTIONS:
        if getattr(args, name) is not None:
            raise ConfigError(f"--{name.replace('_', '-')}: is for a STUDY; leave it out")
    from harness.evidence.rescue.from_training import plan_training_rescue

    return plan_training_rescue(overrides, path, args.to, args.budget_runs, options)


def _find_named(name: str, output_dir: Path) -> Path:
    try:
        return find_run(name, output_dir, "RUN|STUDY", takes_studies=True)
    except RunNotFoundError as error:
        raise RunNotFoundError(f"{error}; settings are key=value") from error


def _is_name(word: str) -> bool:
    """Return whether a word names a run or a study: it is no override, or a path that exists."""
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
