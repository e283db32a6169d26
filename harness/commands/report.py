"""plateau report: a report on a study or on runs, for people who were not there.

    plateau report STUDY --to report/ --price-per-hour 2.5
    plateau report before after --to report/
    plateau report --check report/

The folder gets index.html, a page without scripts or other files; report.md with its figures; and report.json, which
has the source of every number: the run, the metric and the step that it was read from, or the formula over other
numbers. A report on a study says what was asked, which settings changed, what was measured, what failed, what was
diagnosed, what a confirmation on fresh seeds shows (plateau confirm STUDY) and what each change carries (plateau
ablate STUDY), what it cost, and what was not shown.

--check computes all numbers again from their sources and compares them with the files. The report is also logged to the
sweep's run in MLflow, if the sweep was uploaded.

Exit status: 0 written, or no difference found; 1 the check found differences; 2 invalid input, or a source that is
missing or cannot be read.
"""

import argparse
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from harness.commands.arguments import RUN_HELP, CommandParser, ParagraphFormatter, add_output_dir
from harness.commands.run_histories import find_history_path, load_histories
from harness.core.errors import ConfigError, explain_path_error
from harness.core.terminal import print_error
from harness.evidence.comparing.run_comparison import ComparedRun
from harness.evidence.report.confirmation_report import is_confirmation_folder, make_confirmation_report
from harness.evidence.report.document import Report
from harness.evidence.report.report_check import find_report_differences
from harness.evidence.report.report_files import check_report_folder, write_report
from harness.evidence.report.runs_report import SourceRun, make_runs_report
from harness.evidence.report.study_report import make_study_report
from harness.evidence.report.study_source import load_study_source
from harness.record.run_lookup import find_run, is_study_folder
from harness.tracking.report_upload import upload_report

STATUS_DIFFERENT = 1


def main(arguments: Sequence[str]) -> int:
    parser = _build_parser()
    args = parser.parse_intermixed_args(list(arguments))
    if args.check is not None:
        return _check_report(args)
    if not args.sources:
        raise ConfigError("STUDY|RUN: missing; name a study or runs, or a report with --check")
    if args.to is None:
        raise ConfigError("--to: missing; name a folder for the report, such as --to report")
    check_report_folder(args.to)
    inputs = _describe_inputs(args)
    report = _make_report(inputs, args)
    try:
        files = write_report(args.to, report)
    except OSError as error:
        raise ConfigError(f"--to: {explain_path_error(error) or error}") from error
    print(f"wrote {args.to}: {', '.join(str(path.relative_to(args.to)) for path in files)}")
    if "study" in inputs and (note := upload_report(_find_source(inputs["study"]), args.to, files)):
        print_error(f"note: {note}")
    return 0


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau report", description=__doc__, formatter_class=ParagraphFormatter)
    parser.add_argument("sources", nargs="*", metavar="STUDY|RUN",
                        help=f"a study's name or folder; or {RUN_HELP}, or a log of any program")  # fmt: skip
    parser.add_argument(
        "--to", type=Path, metavar="FOLDER", help="the folder of the report; an earlier one is replaced"
    )
    parser.add_argument("--check", type=Path, metavar="FOLDER", help="check the report in this folder")
    parser.add_argument("--price-per-hour", type=_parse_price, metavar="PRICE",
                        help="what an hour of training costs, in any currency")  # fmt: skip
    parser.add_argument("--storage", metavar="URL", help="the study's database, if its address has a password")
    parser.add_argument("--uri", help="MLflow tracking store of runs given by id, if not mlflow.db of the project")
    add_output_dir(parser)
    return parser


def _parse_price(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        price = math.nan
    if not (math.isfinite(price) and price >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price; write it as in 2.50")
    return price


def _check_report(args: argparse.Namespace) -> int:
    if args.sources or args.to is not None:
        raise ConfigError("--check: takes no study, runs or --to; the report says what it was made from")
    found = find_report_differences(args.check, lambda inputs: _make_report(inputs, args))
    for line in found:
        print(line)
    if found:
        print(f"{args.check}: {len(found)} differences from the sources")
        return STATUS_DIFFERENT
    print(f"{args.check}: every number is what its source gives")
    return 0


def _describe_inputs(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the report is asked for, as report.json keeps it: paths absolute and relative to the report.

    Raises:
        ConfigError: If studies and runs are mixed, or there are several studies.
    """
    inputs: dict[str, Any] = {"price_per_hour": args.price_per_hour}
    paths = [_find_path(name, args) for name in args.sources]
    studies = [path for path in paths if path is not None and is_study_folder(path)]
    if studies and len(paths) > 1:
        raise ConfigError(f"STUDY|RUN: {studies[0].name} is a study; name one study, or runs such as STUDY/best")
    if studies:
        return {**inputs, "study": _describe_path(studies[0], args.to)}
    runs = [{"name": name, **({} if path is None else _describe_path(path, args.to))}
            for name, path in zip(args.sources, paths, strict=True)]  # fmt: skip
    return {**inputs, "runs": runs}


def _find_path(name: str, args: argparse.Namespace) -> Path | None:
    """Return the path of a study, a run or a log; None for an MLflow run."""
    try:
        return find_run(name, args.output_dir, "STUDY|RUN", takes_studies=True)
    except ConfigError:
        return find_history_path(name, args.output_dir)


def _describe_path(path: Path, report: Path) -> dict[str, str]:
    path = path.absolute()
    return {"path": str(path), "relative_path": os.path.relpath(path, report.absolute())}


def _find_source(entry: dict[str, Any], report: Path | None = None) -> Path:
    """Return the path of a source: where it was, or at the same place beside a report that was moved with it.

    Raises:
        ConfigError: If it is at neither.
    """
    path = Path(entry["path"])
    moved = path if report is None else report.absolute() / entry["relative_path"]
    found = next((one for one in (path, moved) if one.exists()), None)
    if found is None:
        raise ConfigError(f"{path}: the source of the report is missing; restore it")
    return Path(os.path.normpath(found))


def _make_report(inputs: dict[str, Any], args: argparse.Namespace) -> Report:
    """Make the report that `inputs` asks for.

    Raises:
        ConfigError: If a source is missing or cannot be read, or `inputs` are not those of a report.
    """
    try:
        price, study, runs = inputs["price_per_hour"], inputs.get("study"), inputs.get("runs", [])
        if price is not None and (isinstance(price, bool) or not isinstance(price, int | float)):
            raise TypeError(f"price_per_hour: {price!r}")
        if study is not None:
            folder = _find_source(study, args.check)
            if is_confirmation_folder(folder):
                return make_confirmation_report(folder, price, inputs)
            return make_study_report(load_study_source(folder, args.storage), price, inputs)
        loaded = [run for entry in runs for run in _load_runs(entry, args)]
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"report.json: inputs: not those of a report ({error}); write it again") from error
    return make_runs_report(loaded, price, inputs)


def _load_runs(entry: dict[str, Any], args: argparse.Namespace) -> Iterator[SourceRun]:
    """Yield the runs that a name stands for: several for a folder of logs."""
    path = _find_source(entry, args.check) if "path" in entry else None
    histories = load_histories(entry["name"], path, args.uri)
    for history in histories:
        place = entry["name"] if len(histories) == 1 else f"{entry['name']}: {history.facts.name}"
        yield SourceRun(place, ComparedRun(history, path))
