"""plateau preflight experiment=headlines: check a training setup before it is run or searched."""

import contextlib
import json
import sys
from collections.abc import Sequence

from harness.commands.arguments import CommandParser, ParagraphFormatter, add_overrides, parse_overrides
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.core.terminal import format_choices, print_fitted, print_notes
from harness.preflight import CHECKS, Finding, TrainingSetup, preflight
from harness.preflight.render import describe_start, print_finding, summarize_report
from harness.run.notices import describe_choices
from harness.run.preflight_adapter import open_training_setup
from harness.run.resume import NoStepLeft
from harness.run.resumed_settings import count_from_checkpoint


def main(arguments: Sequence[str]) -> int:
    parser = CommandParser(
        prog="plateau preflight",
        description=__doc__,
        formatter_class=ParagraphFormatter,
        epilog="checks:\n" + format_choices(CHECKS),
    )
    parser.add_argument("--json", action="store_true", help="print status and findings as JSON, and nothing else")
    parser.add_argument("--only", metavar="CHECK", action="append", help="run only this check; may be repeated")
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    for name in args.only or ():
        if name not in CHECKS:
            raise ConfigError(f"--only: {name}: must be one of {', '.join(CHECKS)}")
    # A base model that has to be trained first reports its progress, which is not JSON.
    stdout = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    with stdout, contextlib.ExitStack() as stack:
        setup, notices = _open_setup(args.overrides, stack)
        print_notes(notices)
        print_fitted(describe_start(setup, args.only or list(CHECKS)))
        on_finding = ignore_finding if args.json else print_finding
        report = preflight(setup, args.only or CHECKS, on_finding=on_finding)
    if args.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print_fitted(summarize_report(report))
    return int(bool(report.failed_checks))


def _open_setup(overrides: Sequence[str], stack: contextlib.ExitStack) -> tuple[TrainingSetup, list[str]]:
    """Return the training setup of `overrides`, which `stack` closes, and notices about it."""
    cfg = compose_config(overrides)
    notices = describe_choices(cfg, overrides)
    try:
        return stack.enter_context(open_training_setup(cfg)), notices
    except NoStepLeft:
        counted = count_from_checkpoint(overrides)
        if counted == overrides:
            raise
        setup = stack.enter_context(open_training_setup(compose_config(counted)))
        return setup, [
            *notices,
            f"the run has taken all its steps; {counted[-1]} counts further ones from its checkpoint",
        ]


def ignore_finding(check: str, finding: Finding) -> None:
    """Print nothing; all findings are in the report."""
