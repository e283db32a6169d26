"""plateau compare A B [C ...]: settings that differ, losses with their errors, and whether they can be compared.

A run is one of ours, a trial of a sweep, an MLflow run, or a log of any program; a folder of logs is all of its runs.
All differences are to the first one. The exit status is 0; 1 if the runs are known not to be comparable, so that no
difference is given; 2 if something could not be read.
"""

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from harness.commands.arguments import RUN_HELP, CommandParser, add_output_dir
from harness.commands.run_histories import (
    PLACEHOLDER,
    STANDARD_INPUT,
    find_history_path,
    load_histories,
    load_standard_input,
)
from harness.core.errors import ConfigError, DamageError, explain_path_error
from harness.core.files import write_atomically
from harness.core.terminal import find_width, print_error
from harness.evidence.comparing.compare_html import format_as_html
from harness.evidence.comparing.compare_tables import make_sections
from harness.evidence.comparing.compare_text import comparison_to_json, format_as_markdown, format_as_text
from harness.evidence.comparing.run_comparison import BEST, FINAL, ComparedRun, compare_histories
from harness.record.example_losses import BEST_EXAMPLES, FINAL_EXAMPLES, ExampleLosses, read_example_losses

STATUS_NOT_COMPARABLE = 1


def main(arguments: Sequence[str]) -> int:
    parser = _build_parser()
    args = parser.parse_intermixed_args(list(arguments))
    runs = [run for name in args.runs for run in _load_runs(name, args)]
    comparison = compare_histories(runs, args.reach)
    sections = make_sections(comparison)
    if args.html:
        _write_html(args.html, format_as_html(comparison, sections))
    if args.json:
        print(json.dumps(comparison_to_json(comparison), indent=2, allow_nan=False))
    elif args.markdown:
        print(format_as_markdown(sections), end="")
    else:
        print("\n".join(format_as_text(sections, find_width())))
    return 0 if comparison.is_comparable else STATUS_NOT_COMPARABLE


def _build_parser() -> CommandParser:
    parser = CommandParser(prog="plateau compare", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar=PLACEHOLDER, help=f"{RUN_HELP}, a log of any program, a folder of "
                        "logs; - reads standard input")  # fmt: skip
    parser.add_argument("--reach", action="append", default=[], type=_parse_loss, metavar="LOSS",
                        help="say when each run reached this validation loss; may be repeated; default: a loss that "
                        "every run reached")  # fmt: skip
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON document (docs/comparing.md)")
    output.add_argument("--markdown", action="store_true", help="print markdown")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with curves, in one file")
    add_output_dir(parser)
    parser.add_argument("--uri", help="MLflow tracking store, if not mlflow.db of the project")
    return parser


def _parse_loss(text: str) -> float:
    try:
        loss = float(text)
    except ValueError:
        loss = math.nan
    if not math.isfinite(loss):
        raise argparse.ArgumentTypeError(f"{text!r} is not a loss; write it as in 3.60")
    return loss


def _load_runs(name: str, args: argparse.Namespace) -> Iterator[ComparedRun]:
    """Yield the runs that a name, a file, a folder or standard input holds."""
    if name == STANDARD_INPUT:
        with TemporaryDirectory() as folder:
            path, histories = None, load_standard_input(Path(folder))
    else:
        path = find_history_path(name, args.output_dir)
        histories = load_histories(name, path, args.uri)
    for history in histories:
        for note in history.facts.notes:
            print_error(f"note: {note}")
        examples = _load_examples(path) if path and len(histories) == 1 else {}
        yield ComparedRun(history, path, examples)


def _load_examples(path: Path) -> dict[str, ExampleLosses]:
    """Return the losses of single examples that a run recorded beside its metrics."""
    folder, found = path if path.is_dir() else path.parent, {}
    for at, name in ((BEST, BEST_EXAMPLES), (FINAL, FINAL_EXAMPLES)):
        if (folder / name).exists():
            try:
                found[at] = read_example_losses(folder / name)
            except (DamageError, OSError) as error:
                print_error(f"note: not paired: {error}")
    return found


def _write_html(path: Path, page: str) -> None:
    try:
        write_atomically(path, page)
    except OSError as error:
        raise ConfigError(f"--html: {explain_path_error(error) or error}") from error
    print_error(f"wrote {path}")
