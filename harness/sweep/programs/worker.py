"""The worker process of our own training and of commands: python -m harness.sweep.programs.worker"""

import signal
import sys

from harness.core.signals import exit_on_signals, record_signal, was_signaled
from harness.sweep.programs import make_trial_runner
from harness.sweep.workers.worker import run_worker


def main() -> int:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: record_signal(number))
    return run_worker(make_trial_runner, was_signaled)


if __name__ == "__main__":
    exit_on_signals()  # before the handlers of `main`, for `end_before_teardown`
    sys.exit(main())
