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
import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.commands.arguments import (
    SEED_FLAG,
    CommandParser,
    ParagraphFormatter,
    add_output_dir,
    add_seed_run_options,
    join_option_value,
    redirect_to_stderr,
)
from harness.core.credentials import hide_secret_words
from harness.core.errors import ConfigError, RunFailedError
from harness.core.terminal import fit_record, print_fitted, print_notes

if TYPE_CHECKING:
    from harness.evidence.confirm.from_study import ConfirmOptions
    from harness.evidence.confirm.plan import Confirmation

STATUS_UNDECIDED = 1


def main(arguments: Sequence[str]) -> int:
    args = _build_parser().parse_args(join_option_value(arguments, SEED_FLAG))
    from harness.evidence.confirm.confirmation import run_confirmation
    from harness.evidence.confirm.from_study import ConfirmOptions
    from harness.evidence.confirm.result import result_to_json
    from harness.evidence.confirm.text import describe_confirmation, format_confirm_result
    from harness.record.metrics_file import encode_nonfinite
    from harness.sweep.optuna_internals import silence_optuna
    from harness.sweep.rerun import RerunOptions

    silence_optuna()
    try:
        options = ConfirmOptions(
            top=args.top,
            seeds=args.seeds,
            trials=tuple(args.trial),
            margin=args.margin,
            max_seconds=args.max_seconds,
            max_tokens=args.max_tokens,
            rerun=RerunOptions(args.seed_flag, args.test_metric, args.n_jobs),
            command=shlex.join(["plateau", "confirm", *hide_secret_words(arguments)]),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with redirect_to_stderr(args.json):
        confirmation = _plan_confirmation(args, options)
        print_notes(confirmation.runs.rerun.notices)
        print_fitted(*describe_confirmation(confirmation))
        if args.dry_run:
            return 0
        outcome = run_confirmation(confirmation)
        print(*map(fit_record, format_confirm_result(outcome.result)), sep="\n")
    if args.json:
        print(json.dumps(encode_nonfinite(result_to_json(outcome.result)), indent=1, allow_nan=False), flush=True)
    if not outcome.result.is_decided and outcome.end.status != "completed":
        outcome.end.raise_if_not_completed()
    if outcome.result.evaluation.failure:
        raise RunFailedError(
            f"failed: {outcome.result.reason}; the logs are in {confirmation.folder}; fix the cause, then run the same "
            "command"
        )
    return 0 if outcome.result.is_decided else STATUS_UNDECIDED


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
    add_output_dir(parser)
    return parser
