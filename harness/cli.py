"""`python -m harness`: what is done with runs after they were made, or before."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.config.errors import HYDRA_ERRORS, explain_error
from harness.core.errors import ConfigError

COMMANDS = {
    "ui": "serve the MLflow UI over the recorded runs",
    "sync": "upload to MLflow what it lacks of runs and sweeps",
    "preflight": "check that a run would train what it is meant to, before it is searched",
    "clean": "a copy of a text file without copies, broken and odd documents, and a list of what was dropped",
    "lr-range": "the loss while the LR rises, and the band of LRs that is worth a sweep",
    "diagnose": "what may be said of a run or a log, whoever recorded it, and what to try",
    "prescribe": "the sweep, or the longer run, that follows from what is wrong with a run",
    "sample": "what a run's model writes after a prompt",
    "export": "a run's model as transformers loads it, or its adapters as peft does",
    "blimp": "how often a model finds the grammatical sentence of a pair the likelier one",
    "verify-resume": "show that a run which is broken off and resumed is the straight run, bit by bit",
}
"""Each is the module of that name in harness/commands, imported when it is chosen."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit status: 0, 1 for what may work later or did not hold, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m harness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="\n".join(f"  {name:<14} {does}" for name, does in COMMANDS.items()),
    )
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of those below")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="COMMAND --help tells which")
    args = parser.parse_args(arguments)
    try:
        return import_module(f"harness.commands.{args.command.replace('-', '_')}").main(args.arguments)
    except ConfigError as error:
        print(error, file=sys.stderr)
    except HYDRA_ERRORS as error:
        print(explain_error(error, args.arguments), file=sys.stderr)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 1
    return 2
