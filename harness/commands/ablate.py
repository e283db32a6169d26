"""Take the gain of a sweep's winner apart, one change at a time, on fresh seeds.

    plateau ablate STUDY
    plateau ablate STUDY --changes optimizer,optimizer.lr loop.grad_clip    # two changes; all others are a third

Each change between the baseline and the winner is made alone, and left out of the winner; values that make sense only
together are one change. The result says which part of the gain each change carries, and which interact
(docs/ablation.md). The claim is about the test split if there is one. The same command resumes.

Exit status: 0 every effect was measured; 1 it was not, or it failed; 2 invalid input; 130 Ctrl-C.
"""

from collections.abc import Sequence

from harness.commands.arguments import CommandParser, ParagraphFormatter, redirect_to_stderr
from harness.commands.seed_runs import (
    add_seed_run_options,
    conclude_command,
    make_options,
    parse_seed_run_arguments,
    print_json,
)
from harness.core.terminal import find_width, print_fitted, print_notes


def main(arguments: Sequence[str]) -> int:
    args = parse_seed_run_arguments(_build_parser(), arguments)
    from harness.evidence.ablation.ablation import AblationOptions, plan_ablation, run_ablation
    from harness.evidence.ablation.result import ablation_to_json
    from harness.evidence.ablation.text import describe_ablation, list_ablation_sections
    from harness.evidence.comparing.compare_text import format_as_text
    from harness.sweep.optuna_internals import silence_optuna
    from harness.sweep.swept_study import load_swept_study

    silence_optuna()
    own = {"trial": args.trial, "changes": tuple(args.changes)}
    options = make_options(AblationOptions, args, "ablate", arguments, **own)
    with redirect_to_stderr(args.json):
        ablation = plan_ablation(load_swept_study(args.study, args.output_dir, args.storage), options)
        print_notes(ablation.runs.rerun.notices)
        print_fitted(*describe_ablation(ablation, has_all_commands=args.dry_run))
        if args.dry_run:
            return 0
        result, end = run_ablation(ablation)
        print(*format_as_text(list_ablation_sections(result), find_width()), sep="\n")
    if args.json:
        print_json(ablation_to_json(result))
    failure = result.reason if result.status == "failed" else ""
    return conclude_command(result.evaluation.is_complete, failure, ablation.folder, end)


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
    return parser
