"""The command `plateau`, also `python -m harness`."""

import sys

from harness.core.signals import exit_on_signals, ignore_signals


def run_plateau() -> int:
    """Run the command line of this process and return the exit status."""
    exit_on_signals()
    try:
        from harness.cli import main  # after the handlers: importing takes time
        from harness.core.credentials import hide_credentials_in_tracebacks

        hide_credentials_in_tracebacks(*sys.argv)
        return main()
    finally:
        ignore_signals()


if __name__ == "__main__":
    sys.exit(run_plateau())
