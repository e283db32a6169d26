"""Handlers of signals, each with real signals."""

import signal
import subprocess
import sys

import pytest

from harness.core.signals import hold_signals, interrupt_on_signals, stop_on_signals, was_interrupted
from tests.conftest import ROOT


def run_code(code: str) -> subprocess.CompletedProcess[str]:
    text = "import signal\nfrom harness.core import signals\nsignals.exit_on_signals()\n" + code
    return subprocess.run(
        [sys.executable, "-c", text],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # these tests may run under nohup
    )


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_during_imports_ends_the_process_in_one_line(number: str) -> None:
    done = run_code(f"signal.raise_signal(signal.{number})")
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.Signals[number], "", "interrupted\n")


def test_hangup_that_nohup_ignores_stays_ignored() -> None:
    code = """
import signal
signal.signal(signal.SIGHUP, signal.SIG_IGN)
from harness.core import signals
signals.exit_on_signals()
signals.interrupt_on_signals()
with signals.stop_on_signals() as is_stopping:
    signal.raise_signal(signal.SIGHUP)
    print(is_stopping())
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "False\n", "")


CLEAN_UP = """
signals.interrupt_on_signals()
try:
    signal.raise_signal(signal.{number})
except KeyboardInterrupt as error:
    print(f"cleaned up after {{error}}", signals.was_interrupted(), flush=True)
    if {twice}:
        signal.raise_signal(signal.{number})
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("twice", [False, True])
def test_signal_afterwards_lets_the_process_clean_up_unless_it_is_repeated(number: str, twice: bool) -> None:
    done = run_code(CLEAN_UP.format(number=number, twice=twice))
    assert done.stdout == "cleaned up after interrupted True\n"
    assert (done.returncode, done.stderr) == (128 + signal.Signals[number], "interrupted\n" if twice else "")


LOST = """
import time
signals.interrupt_on_signals()
class Finalized:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)  # Python drops what a destructor raises
try:
    Finalized()
    time.sleep(20)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_that_a_destructor_drops_is_raised_again() -> None:
    done = run_code(LOST)
    assert (done.returncode, done.stdout, done.stderr) == (130, "interrupted\n", "")


THROUGH_EXEC = """
signals.interrupt_on_signals()
try:
    exec("signal.raise_signal(signal.SIGINT)")
except KeyboardInterrupt:
    print("interrupted")
"""


def test_interrupt_that_passes_through_exec_ends_with_its_status() -> None:
    done = run_code(THROUGH_EXEC)
    assert (done.returncode, done.stdout, done.stderr) == (130, "interrupted\n", "")


STOPPED = """
signals.interrupt_on_signals()
with signals.{block}() as is_stopping:
    signal.raise_signal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    print(is_stopping(), signals.failure_status())
"""


@pytest.mark.parametrize("block", ["hold_signals", "stop_on_signals"])
def test_signal_that_is_handled_later_decides_the_status_of_a_failure(block: str) -> None:
    assert run_code(STOPPED.format(block=block)).stdout == "True 143\n"


def test_library_leaves_handlers_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    interrupt_on_signals()
    assert signal.getsignal(signal.SIGINT) is before
    assert not was_interrupted()


def test_held_signal_is_raised_after_the_block() -> None:
    steps = []

    def signal_twice() -> None:
        with hold_signals() as is_held:
            steps.append(is_held())
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append(is_held())

    with pytest.raises(KeyboardInterrupt):
        signal_twice()
    assert steps == [False, True]


def test_second_signal_interrupts_a_run_that_stops() -> None:
    with stop_on_signals() as is_stopping:
        assert not is_stopping()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        assert is_stopping()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_process_that_ends_before_teardown_runs_its_exit_handlers_only() -> None:
    code = """
import atexit, sys, types
atexit.register(print, "exit handler")
class Module(types.ModuleType):
    def __del__(self):
        print("teardown")
sys.modules["kept"] = Module("kept")
if {early}:
    signals.end_before_teardown(3)
sys.exit(4)
"""
    early, late = (run_code(code.format(early=early)) for early in (True, False))
    assert (early.returncode, early.stdout) == (3, "exit handler\n")
    assert (late.returncode, late.stdout) == (4, "exit handler\nteardown\n")
