"""plateau judge TABLE|STUDY: keep the last change of a tuning loop, or discard it as noise.

A referee for loops that keep or discard one change after another: TABLE has a row for each run (TSV, CSV, JSON lines or
Markdown) with a metric, STUDY is a sweep of ours. The candidate is the last configuration, which must beat the one that
was kept last by more than repeated runs differ, corrected for the number of tries.

    plateau judge results.tsv || git reset --hard HEAD~1

The exit status is 0 for keep, 1 for discard, 2 if the two are not comparable or the noise is unknown.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from harness.commands.arguments import CommandParser, ParagraphFormatter, add_output_dir
from harness.core.errors import ConfigError
from harness.core.terminal import find_width
from harness.evidence.judging.git_changes import (
    find_commit,
    find_repository,
    has_commit,
    is_seed_change,
    list_changed_files,
    list_changed_lines,
)
from harness.evidence.judging.judge_text import format_judgement, judgement_to_json
from harness.evidence.judging.referee import judge_candidate
from harness.evidence.judging.references import find_candidate, find_reference
from harness.evidence.judging.run_log import LoggedConfig, RunLog
from harness.evidence.judging.selection import join_baseline, select_config
from harness.evidence.judging.table_columns import find_columns
from harness.evidence.judging.table_reader import read_table_rows
from harness.evidence.judging.table_runs import build_run_log
from harness.importers.metric_directions import is_higher_better
from harness.record.run_lookup import find_run, is_study_folder


def main(arguments: Sequence[str]) -> int:
    args = _build_parser().parse_args(arguments)
    path = find_run(args.source, args.output_dir, "TABLE", takes_studies=True)
    id_column = None
    if path.is_dir():
        log = _read_study(path, args)
    else:
        log, id_column = _read_table(path, args)
    log = join_baseline(log, args.baseline)
    candidate = select_config(log, args.candidate) if args.candidate else find_candidate(log)
    reference = find_reference(log, candidate) if not args.baseline else next(
        config for config in log.configs if config.is_baseline
    )  # fmt: skip
    reasons, notes = _check_code(path, candidate, reference, id_column, args)
    found = judge_candidate(log, candidate, reference, ignored=args.ignore, extra_reasons=reasons, notes=notes)
    if args.json:
        print(json.dumps(judgement_to_json(found), indent=2, allow_nan=False))
    else:
        print("\n".join(format_judgement(found, find_width())))
    return found.exit_status


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau judge", description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("source", metavar="TABLE", help="a table of runs, or a study's folder or name")
    table = parser.add_argument_group("columns of a table, found by their names unless given")
    table.add_argument("--metric", metavar="COLUMN", help="the value to judge by")
    direction = table.add_mutually_exclusive_group()
    direction.add_argument("--maximize", dest="direction", action="store_const", const="maximize",
                           help="more of the metric is better")  # fmt: skip
    direction.add_argument("--minimize", dest="direction", action="store_const", const="minimize",
                           help="less of the metric is better")  # fmt: skip
    table.add_argument("--id", metavar="COLUMN", help="names a run, such as its commit")
    table.add_argument("--config", type=_split_names, default=[], metavar="COLUMN,...",
                       help="settings; rows that agree in them are repeats")  # fmt: skip
    table.add_argument("--ignore", type=_split_names, default=[], metavar="COLUMN,...",
                       help="columns that may differ, though their names say that they decide the measure")  # fmt: skip
    select = parser.add_argument_group("runs: an id, or COLUMN=VALUE, such as row=3-5")
    select.add_argument("--candidate", metavar="RUNS", help="what to judge; default: the last configuration")
    select.add_argument("--baseline", metavar="RUNS", help="repeats of what it must beat; default: what was kept last")
    code = parser.add_argument_group("commits")
    code.add_argument("--repo", type=Path, metavar="FOLDER", help="of the commits; default: that of the table")
    code.add_argument("--eval-code", type=_split_names, default=[], metavar="PATH,...",
                      help="files of the evaluation, in which commits must not differ, such as prepare.py")  # fmt: skip
    parser.add_argument("--storage", metavar="URL", help="of a study: its database, if the address has a password")
    parser.add_argument("--json", action="store_true", help="print one JSON document (docs/judging.md)")
    add_output_dir(parser)
    return parser


def _split_names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _read_table(path: Path, args: argparse.Namespace) -> tuple[RunLog, str | None]:
    """Return the log of a table, and its column of ids.

    Raises:
        ConfigError: If options of studies are given, or a column does not exist.
    """
    if args.storage:
        raise ConfigError("--storage: the database of a study; leave it out for a table")
    columns, rows, notes = read_table_rows(path)
    found = find_columns(columns, rows, metric=args.metric, direction=args.direction, id_column=args.id,
                         config=args.config)  # fmt: skip
    for name in args.ignore:
        if name not in columns:
            raise ConfigError(f"--ignore: {name}: there is no such column; the table has {', '.join(columns)}")
    more_is_better = is_higher_better(found.metric)
    if more_is_better is not None and more_is_better != (found.direction == "maximize"):
        better = "more" if more_is_better else "less"
        notes.append(f"judged to {found.direction} {found.metric}, whose name says that {better} is better")
    return build_run_log(rows, found, path, notes), found.id


def _read_study(path: Path, args: argparse.Namespace) -> RunLog:
    """Return the log of a study.

    Raises:
        ConfigError: If the folder is no study, or options of tables are given.
    """
    if not is_study_folder(path):
        raise ConfigError(f"TABLE: {path}: a folder, but not that of a study; name a table or a study")
    if args.metric or args.id or args.config or args.eval_code or args.repo:
        raise ConfigError("--metric, --id, --config, --repo and --eval-code are for tables; leave them out for a study")
    from harness.evidence.judging.study_runs import read_study_log  # loads Optuna

    return read_study_log(path, args.source, args.storage)


def _check_code(
    path: Path, candidate: LoggedConfig, reference: LoggedConfig | None, column: str | None, args: argparse.Namespace
) -> tuple[list[str], list[str]]:
    """Return reasons why the commits of the two sides are not comparable, and notes on what was not checked.

    Raises:
        ConfigError: If --repo or --eval-code cannot be followed.
    """
    unchecked = [
        "the evaluation code was not compared; name its files with --eval-code, such as --eval-code prepare.py"
    ]
    if reference is None or path.is_dir():
        return [], []
    commits = [find_commit(side, column) if column else None for side in (reference, candidate)]
    repo = find_repository(args.repo or path.absolute().parent)
    if args.repo is not None and repo is None:
        raise ConfigError(f"--repo: {args.repo}: not in a git repository; name one that has the commits")
    asked = args.repo is not None or bool(args.eval_code)
    base, commit = commits
    if repo is None or base is None or commit is None:
        if asked:
            missing = "no git repository has the table" if repo is None else f"no commits in the column {column}"
            raise ConfigError(f"--{'repo' if args.repo else 'eval-code'}: {missing}; give --repo and --id")
        return [], ["the evaluation code was not compared: the rows name no commits of a git repository"]
    unknown = [one for one in (base, commit) if not has_commit(repo, one)]
    if unknown:
        if asked:
            raise ConfigError(f"--repo: {repo}: has no commit {unknown[0]}; name the repository of the runs")
        return [], unchecked
    changed_lines = list_changed_lines(repo, base, commit, path)
    reasons, notes = [], []
    if is_seed_change(changed_lines):
        reasons.append(f"commits {base} and {commit} differ in the seed only: {changed_lines.last[:60]}")
    if not changed_lines.removed and not changed_lines.added:
        notes.append(f"commits {base} and {commit} do not differ: the code does not show what was changed")
    if not args.eval_code:
        return reasons, [*notes, *unchecked]
    changed = list_changed_files(repo, base, commit, args.eval_code)
    if changed:
        reasons.append(f"the evaluation code changed between {base} and {commit}: {', '.join(changed)}")
    return reasons, notes
