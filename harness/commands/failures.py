"""Report the failure of a command in one line, with its exit status."""

import os
import select
import signal
import sys
from collections.abc import Sequence

from harness.core.credentials import hide_credentials_in_text
from harness.core.errors import ConfigError, RunFailedError, explain_path_error
from harness.core.extras import describe_missing_package
from harness.core.paths import project_dir
from harness.core.shortage import describe_shortage
from harness.core.signals import INTERRUPT_STATUS, failure_status, was_interrupted
from harness.core.terminal import end_start, print_error


def report_failure(error: Exception | KeyboardInterrupt, arguments: Sequence[str], extra: str = "train") -> int:
    """Print what went wrong and return the exit status: 1, 2, or 128 + the number of a signal.

    `extra` is what installs the packages of the command.

    Raises:
        Exception: `error` itself, unless the user can fix its cause, so that its traceback is shown.
    """
    if isinstance(error, KeyboardInterrupt):
        return report_error(str(error) or "interrupted", failure_status(INTERRUPT_STATUS))
    if isinstance(error, BrokenPipeError) and _is_output_closed():  # `plateau diagnose LOG --json | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python fails again at exit
        return 128 + signal.SIGPIPE
    if isinstance(error, RunFailedError):
        return report_error(str(error), failure_status())
    if isinstance(error, ConfigError):
        return report_error(str(error), 2)
    if was_interrupted():  # the interrupt, turned into another exception by a library
        return report_error("interrupted", failure_status())
    if shortage := describe_shortage(error, project_dir()):
        return report_error(f"interrupted: {shortage}; the same command works again once there is enough", 1)
    message = explain_path_error(error) or describe_missing_package(error, extra)
    if not message and type(error).__module__.partition(".")[0] in ("hydra", "omegaconf", "yaml"):
        from harness.config.errors import explain_error  # needs Hydra, which is loaded if it raised

        message = explain_error(error, list(arguments))
    if not message:
        raise error
    return report_error(message, 2)


def _is_output_closed() -> bool:
    """Return whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def report_error(message: str, status: int) -> int:
    """Print a message on rank 0, without the passwords of the command line, and return `status`."""
    end_start()
    if int(os.environ.get("RANK", 0)) == 0:
        print_error(hide_credentials_in_text(message, *sys.argv))
    return status
