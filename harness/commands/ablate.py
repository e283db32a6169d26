"""Take the gain of a sweep's winner apart, one change at a time, on fresh seeds.

    plateau ablate STUDY
    plateau ablate STUDY --changes optimizer,optimizer.lr loop.grad_clip    # two changes; all others are a third

Each change between the baseline and the winner is made alone, and left out of the winner; values that make sense only
together are one change. The result says which part of the gain each change carries, and which interact
(docs/ablation.md). The claim is about the test split if there is one. The same command resumes.

Exit status: 0 every effect was measured; 1 it was not, or it failed; 2 invalid input; 130 Ctrl-C.
"""

import json
import shlex
from collections.abc import Sequence

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
from harness.core.terminal import find_width, print_fitted, print_notes

STATUS_INCOMPLETE = 1


def main(arguments: Sequence[str]) -> int:
    args = _build_parser().parse_args(join_option_value(arguments, SEED_FLAG))
    from harness.evidence.ablation.ablation import AblationOptions, plan_ablation, run_ablation
    from harness.evidence.ablation.result import ablation_to_json
    from harness.evidence.ablation.text import describe_ablation, list_ablation_sections
    from harness.evidence.comparing.compare_text import format_as_text
    from harness.record.metrics_file import encode_nonfinite
    from harness.sweep.optuna_internals import silence_optuna
    from harness.sweep.rerun import RerunOptions
    from harness.sweep.swept_study import load_swept_study

    silence_optuna()
    try:
        options = AblationOptions(
            trial=args.trial,
            seeds=args.seeds,
            changes=tuple(args.changes),
            max_seconds=args.max_seconds,
            max_tokens=args.max_tokens,
            rerun=RerunOptions(args.seed_flag, args.test_metric, args.n_jobs),
            command=shlex.join(["plateau", "ablate", *hide_secret_words(arguments)]),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    with redirect_to_stderr(args.json):
        study = load_swept_study(args.study, args.output_dir, args.storage)
        ablation = plan_ablation(study, options)
        print_notes(ablation.runs.rerun.notices)
        print_fitted(*describe_ablation(ablation))
        if args.dry_run:
            return 0
        result, end = run_ablation(ablation)
        print(*format_as_text(list_ablation_sections(result), find_width()), sep="\n")
    if args.json:
        print(json.dumps(encode_nonfinite(ablation_to_json(result)), indent=1, allow_nan=False), flush=True)
    if result.status == "failed":
        raise RunFailedError(
            f"failed: {result.reason}; the logs are in {ablation.folder}; fix the cause and run the same command"
        )
    if not result.evaluation.is_complete and end.status != "completed":
        end.raise_if_not_completed()
    return 0 if result.evaluation.is_complete else STATUS_INCOMPLETE


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau ablate", description=__doc__, formatter_class=ParagraphFormatter)
    add = parser.add_argument
    add("study", metavar="STUDY", help="a study's name or folder, as `plateau list` shows it")
    add("--trial", type=int, metavar="N", help="the winner; default: the best trial")
    add("--seeds", type=int, default=5, metavar="N",
        help="fresh seeds of each configuration; default: 5, since 3 cannot show single effects")  # fmt: skip
    add("--changes", nargs="+", default=[], metavar="KEY",
        help="take only these apart; keys with commas between them are one change, and all that is not named is "
        "another; default: each change")  # fmt: skip
    add_seed_run_options(parser)
    add_output_dir(parser)
    return parser
