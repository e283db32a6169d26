"""plateau diagnose RUN_OR_LOG...: find out from its curves what is wrong with a training, and what to try.

The exit status is 0 with or without diagnoses (see --fail-on), and 2 if something could not be read.
"""

import argparse
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from harness.commands.arguments import RUN_HELP, CommandParser, add_output_dir, add_threshold_option, parse_option
from harness.commands.follow import follow_log
from harness.commands.run_histories import (
    PLACEHOLDER,
    STANDARD_INPUT,
    find_history_path,
    load_histories,
    load_standard_input,
)
from harness.commands.run_reports import Request, complete_facts, print_report, report_run
from harness.core.errors import ConfigError, did_you_mean
from harness.core.terminal import print_error, print_fitted
from harness.diagnosis.comparability import Comparability, compare_runs, name_distinctly
from harness.diagnosis.dialects import DIALECTS
from harness.diagnosis.expectations import KIND as MISSED_EXPECTATION
from harness.diagnosis.expectations import parse_expectation
from harness.diagnosis.given_facts import (
    GivenFacts,
    parse_count,
    parse_number,
    parse_optimizer,
    parse_vocabulary,
    parse_warmup,
)
from harness.diagnosis.history import History
from harness.diagnosis.kinds import KINDS
from harness.diagnosis.render import (
    RunReport,
    find_best_loss,
)
from harness.diagnosis.thresholds import parse_thresholds
from harness.importers.sources.growing import GrowingInput, GrowingLog
from harness.importers.sources.standard_input import STANDARD_INPUT_NAME

JSON_SCHEMA = 1
FAIL_ON_ANY = "diagnosis"
SEPARATORS = "[ _-]"  # of the words of a kind, none of which have to be quoted
GIVEN_FACTS = {
    "lr": (parse_number, "LR", "the peak LR, if the log lacks it; likewise for the five others"),
    "optimizer": (parse_optimizer, "NAME", "its class, such as AdamW"),
    "warmup_steps": (parse_warmup, "N", "the length of the warm-up that was asked for"),
    "vocabulary": (parse_vocabulary, "N", "the number of tokens, so that a loss can be compared with a guess"),
    "batch_tokens": (parse_count, "N", "tokens in a step, over all devices"),
    "total_steps": (parse_count, "N", "the length of the run"),
}
"""Options for facts by the fields of `GivenFacts`: parser, placeholder and help."""


def main(arguments: Sequence[str]) -> int:
    parser = _build_parser()
    args = parser.parse_intermixed_args(list(_join_negative_numbers(arguments)))
    if args.follow and (args.json or len(args.runs) > 1):
        parser.error(f"--follow takes {'no --json' if args.json else 'one log'}")
    request = _parse_request(args)
    reports, errors = [], []
    for run in args.runs:
        try:
            found = _report_source(run, args, request)
        except ConfigError as error:
            errors.append((run, str(error)))
            print_error(str(error))
            continue
        for report in () if args.json else found:
            print_report(report)
        reports += found
    histories = [report.history for report in reports if _has_validation(report.history)]
    comparison = compare_runs(histories, request.thresholds) if len(histories) > 1 else None
    if args.json:
        print(json.dumps(_to_json(reports, comparison, errors), indent=2, allow_nan=False))
    elif comparison:
        _print_comparison(comparison, histories)
    has_failed = any(report.kinds & request.failing_kinds for report in reports)
    return 2 if errors else int(has_failed)


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau diagnose", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar=PLACEHOLDER, help=f"{RUN_HELP}, a "
                        "trainer_state.json, TensorBoard events, a CSV, a JSONL or a text log, a folder of logs; "
                        "- reads standard input")  # fmt: skip
    for name, (_, placeholder, about) in GIVEN_FACTS.items():
        parser.add_argument(f"--{name.replace('_', '-')}", metavar=placeholder, help=about)
    parser.add_argument("--dialect", choices=DIALECTS, metavar="NAME", help="how to write what to try: harness "
                        "(overrides of run.py), hf or lightning (their arguments), or plain (words); default: that of "
                        "the log's program")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON document (docs/diagnosing.md)")
    parser.add_argument("--fail-on", default="", metavar="KINDS", help="exit with status 1 if one of these was found, "
                        "such as divergence,plateau; `diagnosis` stands for any")  # fmt: skip
    parser.add_argument("--follow", action="store_true", help="read a growing log or - until it ends, and print each "
                        "finding once; with --fail-on, end at the first one")  # fmt: skip
    add_threshold_option(parser)
    parser.add_argument("--expect", action="append", default=[], metavar="EXPECTATION",
                        help="checked against each run, such as 'step 1500: val/loss < 6.65'")  # fmt: skip
    add_output_dir(parser)
    parser.add_argument("--uri", help="MLflow tracking store, if not mlflow.db of the project")
    return parser


def _join_negative_numbers(arguments: Sequence[str]) -> Iterator[str]:
    """Yield the arguments with a number such as -1e-3 as `--lr=-1e-3`, which argparse takes for a value."""
    options = {f"--{name.replace('_', '-')}" for name in GIVEN_FACTS}
    rest = iter(arguments)
    for argument in rest:
        value = next(rest, None) if argument in options else None
        yield argument if value is None else f"{argument}={value}"


def _parse_request(args: argparse.Namespace) -> Request:
    given: dict[str, Any] = {
        name: parse_option(f"--{name.replace('_', '-')}", parse, text)
        for name, (parse, *_) in GIVEN_FACTS.items()
        if (text := getattr(args, name)) is not None
    }
    return Request(
        thresholds=parse_option("--threshold", parse_thresholds, args.threshold),
        expectations=[parse_option("--expect", parse_expectation, text) for text in args.expect],
        given=GivenFacts(**given),
        dialect=args.dialect,
        failing_kinds=parse_option("--fail-on", parse_kinds, args.fail_on),
    )


def parse_kinds(text: str) -> frozenset[str]:
    """Return the kinds of diagnoses in a list with commas; `diagnosis` stands for all.

    Raises:
        ValueError: If there is no such kind.
    """
    known = {re.sub(SEPARATORS, "", kind): kind for kind in (*KINDS, MISSED_EXPECTATION)}
    kinds: set[str] = set()
    for part in filter(None, map(str.strip, text.split(","))):
        kind = known.get(re.sub(SEPARATORS, "", part.lower()))
        if kind is None and part != FAIL_ON_ANY:
            hint = did_you_mean(part, KINDS) or f"; the kinds are {', '.join(KINDS)}"
            raise ValueError(f"{part!r} is no diagnosis{hint}")
        kinds |= {kind} if kind else set(KINDS)
    return frozenset(kinds)


def _report_source(run: str, args: argparse.Namespace, request: Request) -> list[RunReport]:
    """Return a report of each run that is found under a name, in a file, or on standard input."""
    if run == STANDARD_INPUT:
        with TemporaryDirectory() as folder:
            if args.follow:
                return follow_log(GrowingInput(Path(folder)), STANDARD_INPUT_NAME, request)
            path, histories = None, load_standard_input(Path(folder))
    else:
        path = find_history_path(run, args.output_dir)
        if args.follow and path:
            return follow_log(GrowingLog(path), run, request)
        histories = load_histories(run, path, args.uri)
    for history in histories:
        complete_facts(history, request)
    return [report_run(history, path, request) for history in histories]


def _to_json(
    reports: Sequence[RunReport], comparison: Comparability | None, errors: Sequence[tuple[str, str]]
) -> dict[str, Any]:
    compared = comparison and {"verdict": comparison.verdict, "reasons": list(comparison.reasons)}
    return {
        "schema": JSON_SCHEMA,
        "runs": [report.to_json() for report in reports],
        "comparison": compared,
        "errors": [{"source": run, "message": message} for run, message in errors],
    }


def _has_validation(history: History) -> bool:
    """Return whether the run has a validation loss to compare, or will have one."""
    return history.facts.data is not None or len(history["val/loss"]) > 0


def _print_comparison(comparison: Comparability, histories: Sequence[History]) -> None:
    lines = [str(comparison), *(f"  {reason}" for reason in comparison.reasons)]
    if comparison.verdict != "not comparable":
        lines += _rank_runs(histories)
    print_fitted(*lines)


def _rank_runs(histories: Sequence[History]) -> Iterator[str]:
    """Yield a line with the best validation loss of each run, the lowest first, if at least two have one."""
    found = []
    for name, history in zip(name_distinctly(histories), histories, strict=True):
        if (best := find_best_loss(history)) is not None:
            found.append((best[1], f"{name} {best[1]:.4g} at {history.describe_step(best[0])}"))
    if len(found) > 1:
        found.sort(key=lambda one: one[0])
        yield "best validation losses, lowest first: " + " · ".join(text for _, text in found)
