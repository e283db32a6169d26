"""plateau preflight experiment=headlines: check a training setup before it is run or searched."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence

from harness.commands.arguments import add_overrides, parse_overrides
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.preflight import CHECKS, Finding, preflight
from harness.preflight.render import print_finding, summarize_report
from harness.run.preflight_adapter import open_training_setup
from harness.run.runner import BaseRunFailed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="plateau preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="checks:\n" + "\n".join(f"  {name:<18} {description}" for name, description in CHECKS.items()),
    )
    parser.add_argument("--json", action="store_true", help="print status and findings as JSON, and nothing else")
    parser.add_argument("--only", metavar="CHECK", action="append", help="run only this check; may be repeated")
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    for name in args.only or ():
        if name not in CHECKS:
            raise ConfigError(f"--only: {name}: must be one of {', '.join(CHECKS)}")
    # A base model that has to be trained first reports its progress, which is no JSON.
    stdout = contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext()
    try:
        with stdout, open_training_setup(compose_config(args.overrides)) as setup:
            on_finding = ignore_finding if args.json else print_finding
            report = preflight(setup, args.only or CHECKS, on_finding=on_finding)
    except BaseRunFailed as error:
        raise ConfigError(f"start: {error}") from error
    print(json.dumps(report.to_dict(), indent=2) if args.json else summarize_report(report))
    return int(bool(report.failed_checks))


def ignore_finding(check: str, finding: Finding) -> None:
    """Print nothing; all findings are in the report."""
