"""Each kind of failure has one line and its own exit status; an error that nothing explains keeps its traceback."""

import errno
import os
import sys

import pytest
from hydra.errors import HydraException
from omegaconf.errors import ConfigKeyError
from yaml import YAMLError

from harness.commands.failures import report_failure
from harness.core import signals
from harness.core.errors import ConfigError, RunFailedError


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ConfigError("lr: 0: must be above 0"), 2, "lr: 0: must be above 0"),
        (RunFailedError("diverged: the loss is nan"), 1, "diverged: the loss is nan"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (FileNotFoundError(errno.ENOENT, "No such file", "log.txt"), 2, "log.txt: no such file; check the path"),
        (ModuleNotFoundError("no ray", name="ray"), 2, "pip install 'plateau-harness[ray]'"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "the same command works again once there is enough"),
        (HydraException("no such launcher"), 2, "no such launcher"),
        (ConfigKeyError("there is no key"), 2, "there is no key"),
        (YAMLError("a tab"), 2, "a tab"),
    ],
)
def test_failure_is_one_line(error: Exception | KeyboardInterrupt, status: int, message: str, capsys) -> None:
    assert report_failure(error, []) == status
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.count("\n") == 1


def test_closed_output_ends_a_command_silently(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """`plateau diagnose LOG --json | head` closes it; another pipe that breaks is an error."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with pytest.raises(BrokenPipeError):
            report_failure(BrokenPipeError(), [])
        os.close(reader)
        assert report_failure(BrokenPipeError(), []) == 141
        print("what Python still has to write", flush=True)
    assert capsys.readouterr().err == ""


def test_unknown_errors_are_raised_again() -> None:
    with pytest.raises(ZeroDivisionError):
        report_failure(ZeroDivisionError(), [])


def test_errors_after_an_interrupt_are_interrupts(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Libraries turn a KeyboardInterrupt into errors of their own."""
    monkeypatch.setattr(signals, "_interrupts", [15])
    monkeypatch.setattr(signals, "_received", [15])
    assert report_failure(ZeroDivisionError(), []) == 143
    assert capsys.readouterr().err == "interrupted\n"


def test_other_ranks_print_nothing(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("RANK", "1")
    assert report_failure(ConfigError("once is enough"), []) == 2
    assert capsys.readouterr().err == ""
