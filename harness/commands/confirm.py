"""Run the best trials of a sweep and its baseline on fresh seeds, and say which are better.

    plateau confirm STUDY
    plateau confirm 'optimizer=sgd' 'optimizer=adamw optimizer.lr=1e-3'    # baseline and candidates, as overrides
    plateau confirm STUDY --seed-flag --seed --test-metric test_loss       # of plateau sweep -- COMMAND
    plateau confirm STUDY --seed-flag trainer.seed                         # of an app with hydra/sweeper=harness

The runs are made by workers like those of the sweep, on the same seeds for all, and judged by a rule that is fixed
before (docs/confirming.md). The claim is about the test split if there is one. The same command resumes.

Exit status: 0 every candidate has a verdict, whichever; 1 it has not, or it failed; 2 invalid input; 130 Ctrl-C.
"""

import argparse
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.commands.arguments import CommandParser, ParagraphFormatter, redirect_to_stderr
from harness.commands.seed_runs import (
    add_seed_run_options,
    conclude_command,
    make_options,
    parse_seed_run_arguments,
    print_json,
)
from harness.core.errors import ConfigError
from harness.core.terminal import fit_record, print_fitted, print_notes

if TYPE_CHECKING:
    from harness.evidence.confirm.from_study import ConfirmOptions
    from harness.evidence.confirm.plan import Confirmation


def main(arguments: Sequence[str]) -> int:
    args = parse_seed_run_arguments(_build_parser(), arguments)
    from harness.evidence.confirm.confirmation import run_confirmation
    from harness.evidence.confirm.from_study import ConfirmOptions
    from harness.evidence.confirm.result import result_to_json
    from harness.evidence.confirm.text import describe_confirmation, format_confirm_result
    from harness.sweep.optuna_internals import silence_optuna

    silence_optuna()
    own = {"top": args.top, "trials": tuple(args.trial), "margin": args.margin}
    options = make_options(ConfirmOptions, args, "confirm", arguments, **own)
    with redirect_to_stderr(args.json):
        confirmation = _plan_confirmation(args, options)
        print_notes(confirmation.runs.rerun.notices)
        print_fitted(*describe_confirmation(confirmation, has_all_commands=args.dry_run))
        if args.dry_run:
            return 0
        result, end = run_confirmation(confirmation)
        print(*map(fit_record, format_confirm_result(result)), sep="\n")
    if args.json:
        print_json(result_to_json(result))
    return conclude_command(result.is_decided, result.evaluation.failure, confirmation.folder, end)


def _plan_confirmation(args: argparse.Namespace, options: "ConfirmOptions") -> "Confirmation":
    if len(args.configs) == 1 and "=" not in args.configs[0]:
        from harness.evidence.confirm.from_study import plan_study_confirmation
        from harness.sweep.swept_study import load_swept_study

        return plan_study_confirmation(load_swept_study(args.configs[0], args.output_dir, args.storage), options)
    if len(args.configs) == 1:
        raise ConfigError(
            f"plateau confirm: {args.configs[0]}: name a study, or give a baseline and candidates; '' is the default "
            "configuration"
        )
    from harness.evidence.confirm.from_overrides import name_configs, plan_override_confirmation

    overrides = map(shlex.split, args.configs)
    return plan_override_confirmation(dict(zip(name_configs(len(args.configs)), overrides, strict=True)), options)


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau confirm", description=__doc__, formatter_class=ParagraphFormatter)
    add = parser.add_argument
    add("configs", nargs="+", metavar="STUDY",
        help="a study's name or folder, as `plateau list` shows it; or the overrides of a baseline and of candidates, "
        "each in quotes")  # fmt: skip
    add("--top", type=int, default=3, metavar="N", help="confirm the best N trials; default: 3")
    add("--trial", type=int, action="append", default=[], metavar="N", help="confirm this trial; may be repeated")
    add("--seeds", type=int, default=5, metavar="N", help="fresh seeds of each at most; default: 5")
    add("--margin", type=float, metavar="M", help="differences up to M, in the unit of the metric, count as equivalent")
    add_seed_run_options(parser)
    return parser
