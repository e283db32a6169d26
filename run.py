"""Compose a configuration and run it: `python run.py optimizer=adamw schedule=cosine`; the same as `plateau run`."""

import sys

from harness.core.signals import exit_on_signals, ignore_signals
from harness.core.terminal import announce_slow_start, end_start

if __name__ == "__main__":
    exit_on_signals()
    announce_slow_start()
    try:
        from harness.commands.run import main  # after the handlers: importing takes time
        from harness.core.credentials import hide_credentials_in_tracebacks

        hide_credentials_in_tracebacks(*sys.argv)
        sys.exit(main(sys.argv[1:]))
    finally:
        end_start()
        ignore_signals()
