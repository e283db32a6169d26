"""The command `plateau`, also `python -m harness`: one command per module of harness/commands."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from harness.commands.failures import report_failure
from harness.core.errors import did_you_mean
from harness.core.extras import find_version
from harness.core.signals import interrupt_on_signals
from harness.core.terminal import end_start, format_choices, show_lines_at_once
from harness.core.threads import use_passive_waiting

# Each command is the module of that name in harness/commands, imported when it is chosen.
COMMANDS = {
    "run": "train once, or sweep with -m; the same as python run.py",
    "sweep": "search the options of any program: plateau sweep -- python train.py --lr 1e-4,1e-3",
    "preflight": "check a training for bugs and settings without effect before searching",
    "list": "show the runs and studies, newest first",
    "diagnose": "say what is wrong with a run or a log, and what to try",
    "compare": "compare runs, trials or logs: settings, losses, cost, and what the difference shows",
    "confirm": "run the best trials of a sweep and its baseline on fresh seeds, and say which are better",
    "ablate": "say which change carries which part of the gain of a sweep, on fresh seeds",
    "judge": "keep the last change of a tuning loop, or discard it as noise",
    "report": "write a report on a study or on runs, every number with its source, and check it",
    "lr-range": "raise the LR step by step and find the band worth a sweep",
    "prescribe": "propose the sweep, or the longer run, that follows from a run's diagnoses",
    "rescue": "preflight, diagnose, sweep, confirm and report in one command",
    "clean": "copy a text file without duplicates and broken documents, and list what was dropped",
    "verify-resume": "show that a resumed run is bit-identical to an uninterrupted one",
    "sample": "generate text with a run's model",
    "export": "save a run's model for transformers, or its adapters for peft",
    "blimp": "score a model on grammatical minimal pairs",
    "ui": "serve the MLflow UI over the recorded runs",
    "repair": "repair the damaged journal of a sweep, and keep a copy of it",
    "sync": "upload runs and sweeps that MLflow does not have yet",
}

PROGRAM_COMMANDS = {
    "sweep",
    "list",
    "diagnose",
    "compare",
    "confirm",
    "ablate",
    "judge",
    "report",
    "rescue",
    "ui",
    "repair",
    "sync",
}
"""Those that take runs of any program, and do without torch."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status.

    0; 1 if something failed that may work later, or did not hold; 2 for invalid input; 128 + the number of a signal.
    """
    use_passive_waiting()
    show_lines_at_once()
    parser = argparse.ArgumentParser(
        prog="plateau",
        description="A sweep harness for people whose training has plateaued.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n" + format_choices(COMMANDS),
    )
    parser.add_argument("--version", action="version", version=f"plateau {find_version()}")
    parser.add_argument(
        "command", choices=COMMANDS, metavar="COMMAND", help="see below; COMMAND --help shows its options"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...")
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments == ["help"]:
        parser.print_help()
        return 0
    if not arguments[0].startswith("-") and arguments[0] not in COMMANDS:
        parser.error(_describe_unknown_command(arguments[0]))
    args = parser.parse_args(arguments)
    if arguments[0] in COMMANDS:
        args.arguments = arguments[1:]  # argparse drops their first `--`
    try:
        command = import_module(f"harness.commands.{args.command.replace('-', '_')}")
        if args.command != "run":  # it has more to import
            interrupt_on_signals()
            end_start()
        return command.main(args.arguments)
    except (Exception, KeyboardInterrupt) as error:
        return report_failure(error, args.arguments, "programs" if args.command in PROGRAM_COMMANDS else "train")


def _describe_unknown_command(name: str) -> str:
    if "=" in name:
        return f"{name}: is an override, not a command; `plateau run {name}` trains"
    return f"there is no command {name!r}{did_you_mean(name, COMMANDS)} (`plateau --help` lists them)"
