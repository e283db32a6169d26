"""The command `plateau`, also `python -m harness`."""

import sys

from harness.core.signals import exit_on_signals, ignore_signals
from harness.core.terminal import announce_slow_start, end_start


def run_plateau() -> int:
    """Run the command line of this process and return the exit status."""
    exit_on_signals()
    announce_slow_start()
    try:
        from harness.cli import main  # after the handlers: importing takes time
        from harness.core.credentials import hide_credentials_in_tracebacks

        hide_credentials_in_tracebacks(*sys.argv)
        return main()
    finally:
        end_start()
        ignore_signals()


if __name__ == "__main__":
    sys.exit(run_plateau())
