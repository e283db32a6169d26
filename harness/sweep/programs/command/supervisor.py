"""Run a program, and end it with every process that it has started. Uses the standard library only.

`process.py` starts this file as a process of its own, which outlives a worker that is killed: then its standard input
closes, and it kills the program. It reads the program as one line of JSON and `stop` as another, and writes a line of
JSON to `status_fd` after the start and one after the end. On Linux orphans, such as daemons and processes of other
sessions, become its children; elsewhere it ends the program's session and descendants.
"""

import ctypes
import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, NamedTuple

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36  # of <linux/prctl.h>
CHECK_SECONDS = 1.0
KILL_SECONDS = 10.0  # how long killed processes may take to end: those that wait for a device cannot be killed
BACKGROUND_SECONDS = 1.0  # that processes in the background have to end by themselves, as `tee` does
BACKGROUND_GRACE_SECONDS = 5.0


class OrphanedError(Exception):
    """The worker has died."""


class Process(NamedTuple):
    """A line of the process table."""

    pid: int
    parent: int
    group: int
    is_zombie: bool


class Supervisor:
    """Waits for a program, its background processes, and the worker's commands."""

    def __init__(self) -> None:
        self._worker = os.getppid()
        self._wake_fd, wake_end = os.pipe()
        os.set_blocking(self._wake_fd, False)
        os.set_blocking(wake_end, False)
        signal.set_wakeup_fd(wake_end, warn_on_full_buffer=False)
        # A handler, since programs inherit signals that are ignored. The worker alone decides when the program ends.
        for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self.pid = 0
        self.code: int | None = None
        self.is_stopping = False

    def start_program(self, argv: list[str], cwd: str, environment: dict[str, str]) -> None:
        """Start the program in a session of its own.

        Raises:
            OSError: If it cannot be started.
        """
        die_with_us = _make_parent_death_signal()
        self._program = subprocess.Popen(  # kept, since the end of the object would reap the process
            argv, cwd=cwd, env=environment, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_us
        )
        self.pid = self._program.pid

    def wait_for_program(self, grace_seconds: float) -> bool:
        """Wait until the program ends, and return whether it had to be killed.

        Raises:
            OrphanedError: If the worker has died.
        """
        deadline = None
        while self.code is None:
            self._wait_for_events(CHECK_SECONDS if deadline is None else max(0.0, deadline - time.monotonic()))
            if self.is_stopping and deadline is None:
                deadline = time.monotonic() + grace_seconds
                with suppress(OSError):  # it has just ended
                    os.killpg(self.pid, signal.SIGTERM)
                    os.killpg(self.pid, signal.SIGCONT)  # a stopped process handles no signal
            if self.code is None and deadline is not None and time.monotonic() >= deadline:
                self.kill_all()
                return True
        return False

    def end_background(self, grace_seconds: float) -> int:
        """End the processes that the program has left behind, and return how many.

        Raises:
            OrphanedError: If the worker has died.
        """
        # Those that have been asked to end, together with the program, may need a moment.
        self._wait_until_alone(min(BACKGROUND_SECONDS, grace_seconds) if self.is_stopping else BACKGROUND_SECONDS)
        left = self._list_processes()
        for process in left:
            if not (self.is_stopping and process.group == self.pid):  # that group has been asked to end
                _send_signal(process.pid, signal.SIGTERM)
        if left:
            self._wait_until_alone(min(BACKGROUND_GRACE_SECONDS, grace_seconds))
            self.kill_all()
        return len(left)

    def kill_all(self) -> None:
        """Kill the program and everything that it has started, also what is started meanwhile."""
        deadline = time.monotonic() + KILL_SECONDS
        while time.monotonic() < deadline and (processes := self._list_processes()):
            for process in processes:
                _send_signal(process.pid, signal.SIGKILL)
            time.sleep(0.005)
            self._reap_children()
        if self.code is None:
            self.code = -signal.SIGKILL

    def _wait_until_alone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while self._list_processes() and (remaining := deadline - time.monotonic()) > 0:
            self._wait_for_events(min(0.05, remaining))

    def _wait_for_events(self, seconds: float) -> None:
        """Wait for a command or the end of a child, at most `seconds`."""
        ready = select.select([0, self._wake_fd], [], [], seconds)[0]
        if self._wake_fd in ready:
            os.read(self._wake_fd, 4096)
        if 0 in ready and not os.read(0, 4096):
            raise OrphanedError
        self.is_stopping |= 0 in ready
        if os.getppid() != self._worker:  # others may hold the other end of standard input open
            raise OrphanedError
        self._reap_children()

    def _reap_children(self) -> None:
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                if pid == self.pid:
                    self.code = os.waitstatus_to_exitcode(status)

    def _list_processes(self) -> list[Process]:
        """Return all descendants of this process that still run, and those in the program's group."""
        self._reap_children()
        table = list(_read_process_table())
        family = {os.getpid()}
        while found := {process.pid for process in table if process.parent in family} - family:
            family |= found
        family.discard(os.getpid())
        running = (process for process in table if not process.is_zombie)
        return [process for process in running if process.pid in family or process.group == self.pid]


def _read_process_table() -> Iterator[Process]:
    if sys.platform != "linux":
        yield from _ask_ps()
        return
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                # The name of a program, in parentheses, may hold anything.
                state, parent, group = file.read().rpartition(b")")[2].split()[:3]
                yield Process(int(name), int(parent), int(group), state in (b"Z", b"X"))


def _ask_ps() -> Iterator[Process]:
    command = ["ps", "-A", "-o", "pid=,ppid=,pgid=,stat="]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as ps:
        assert ps.stdout is not None
        for line in ps.stdout:
            pid, parent, group, state = line.split()[:4]
            if int(pid) != ps.pid:
                yield Process(int(pid), int(parent), int(group), state.startswith("Z"))


def _send_signal(pid: int, number: int) -> None:
    with suppress(OSError):  # it has ended, or belongs to someone else
        os.kill(pid, number)


def _adopt_orphans() -> None:
    """Become the parent of every descendant whose parent dies. Linux only."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _make_parent_death_signal() -> Callable[[], None] | None:
    """Return what makes a new process die with this one, if that is killed. Linux only."""
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main() -> int:
    with open(0, "rb", buffering=0, closefd=False) as commands:  # unbuffered: select must see what follows
        request: dict[str, Any] = json.loads(commands.readline())
    status_fd, grace_seconds = request["status_fd"], request["grace_seconds"]
    os.set_inheritable(status_fd, False)

    def send_status(**status: Any) -> None:
        os.write(status_fd, json.dumps(status).encode() + b"\n")

    supervisor = Supervisor()
    _adopt_orphans()
    try:
        supervisor.start_program(request["argv"], request["cwd"], request["environment"])
    except OSError as error:
        # Popen names the folder if that is at fault.
        send_status(errno=error.errno or errno.EIO, is_cwd=error.filename == request["cwd"] != request["argv"][0])
        return 1
    try:
        send_status(pid=supervisor.pid)
        was_killed = supervisor.wait_for_program(grace_seconds)
        n_left = supervisor.end_background(grace_seconds)
        send_status(code=supervisor.code, was_killed=was_killed, n_left=n_left)
    except (OrphanedError, BrokenPipeError):
        supervisor.kill_all()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
