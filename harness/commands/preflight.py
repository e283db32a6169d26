"""python -m harness preflight experiment=headlines: check a training setup before it is run or searched."""

import argparse
from collections.abc import Sequence

from harness.config.compose import compose_config
from harness.core.errors import ConfigError
from harness.preflight import CHECKS, preflight
from harness.preflight.render import print_finding, summarize_report
from harness.run.preflight_adapter import open_training_setup
from harness.run.runner import BaseRunFailed


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m harness preflight",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="checks:\n" + "\n".join(f"  {name:<18} {description}" for name, description in CHECKS.items()),
    )
    parser.add_argument("--only", metavar="CHECK", action="append", help="run only this check; may be repeated")
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as for run.py, such as experiment=headlines")
    args = parser.parse_intermixed_args(arguments)
    for name in args.only or ():
        if name not in CHECKS:
            raise ConfigError(f"--only: {name}: must be one of {', '.join(CHECKS)}")
    try:
        with open_training_setup(compose_config(args.overrides)) as setup:
            report = preflight(setup, args.only or CHECKS, on_finding=print_finding)
    except BaseRunFailed as error:
        raise ConfigError(f"the run to start from: {error}") from error
    print(summarize_report(report))
    return int(bool(report.failed_checks))
