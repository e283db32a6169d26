"""plateau preflight experiment=headlines: check a training setup before it is run or searched."""

import argparse
from collections.abc import Sequence

from harness.commands.arguments import add_overrides, parse_overrides
from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.preflight import CHECKS, preflight
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
    parser.add_argument("--only", metavar="CHECK", action="append", help="run only this check; may be repeated")
    add_overrides(parser)
    args = parse_overrides(parser, arguments)
    for name in args.only or ():
        if name not in CHECKS:
            raise ConfigError(f"--only: {name}: must be one of {', '.join(CHECKS)}")
    try:
        with open_training_setup(compose_config(args.overrides)) as setup:
            report = preflight(setup, args.only or CHECKS, on_finding=print_finding)
    except BaseRunFailed as error:
        raise ConfigError(f"start: {error}") from error
    print(summarize_report(report))
    return int(bool(report.failed_checks))
