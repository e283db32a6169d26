"""Run the program of a trial: its output goes to a log, and it ends with all the processes that it has started."""

import errno
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError

SUPERVISOR = Path(__file__).with_name("supervisor.py")
GRACE_SECONDS = 30.0  # as Kubernetes and Slurm give a program that is to end
POLL_SECONDS = 1.0
FIRST_POLL_SECONDS, POLL_GROWTH = 0.1, 1.2  # so that short programs are pruned too
INTERPRETER = re.compile(r"python[\d.]*|(?:ba|z)?sh")
SCRIPT = re.compile(r"[^-].*\.(?:py|sh)")


@dataclass(frozen=True)
class ProgramExit:
    """The end of a program.

    `code` is its exit status, or the negative number of the signal that ended it. `was_ended` tells if it was asked to
    end, and `was_killed` if it did not in time. `n_left` processes ran on behind it and were ended.
    """

    code: int
    was_ended: bool = False
    was_killed: bool = False
    n_left: int = 0


def check_program_exists(words: Sequence[str], cwd: Path) -> None:
    """Check the program that runs in `cwd` before a study is created: else every trial would fail for the same reason.

    Raises:
        ConfigError: If the program, or the script that it is given, does not exist.
    """
    program = words[0]
    if shutil.which(str(cwd / program) if "/" in program else program) is None:
        place = "there is no such program" if "/" in program else "there is no such program on PATH"
        hint = f"; for the one in this folder write ./{program}" if (cwd / program).is_file() else "; check its name"
        raise ConfigError(f"{program}: {place}{hint}")
    script = words[1] if len(words) > 1 and INTERPRETER.fullmatch(Path(program).name) else ""
    if SCRIPT.fullmatch(script) and not (cwd / script).exists():
        raise ConfigError(f"{script}: there is no such file; check its path")


def run_program(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path,
    log_path: Path,
    *,
    should_end: Callable[[], bool] = lambda: False,
    poll_seconds: float = POLL_SECONDS,
    grace_seconds: float = GRACE_SECONDS,
) -> ProgramExit:
    """Run a program until it ends, or `should_end()`, and return how it ended.

    It has no standard input. Both its streams are written to `log_path` as they come. To end, it gets SIGTERM with all
    processes of its session, and after `grace_seconds` SIGKILL with all that it has started. If this process is killed,
    the program is killed too.

    Args:
        environment: The whole environment of the program. Output of Python is unbuffered unless it sets that.
        should_end: Called every `poll_seconds` while the program runs, at first more often. If it raises, the program
            is ended.

    Raises:
        ConfigError: If the program cannot be started.
    """
    log_path.parent.mkdir(parents=True, exist_ok=True)
    with _start_supervisor(log_path) as program:
        program.start(argv, environment, cwd, grace_seconds)
        was_ended, wait = False, min(FIRST_POLL_SECONDS, poll_seconds)
        while not program.has_status(wait):
            wait = min(wait * POLL_GROWTH, poll_seconds)
            if should_end():
                was_ended = True
                program.request_stop()
                break
        ended = program.read_status()
    if ended is None:  # someone killed the supervisor, and thereby the program
        return ProgramExit(-signal.SIGKILL, was_ended)
    return ProgramExit(ended["code"], was_ended, ended["was_killed"], ended["n_left"])


class _SupervisedProgram:
    """The worker's end of a supervisor. At the end of its block the program has ended, politely if there is time."""

    def __init__(self, supervisor: "subprocess.Popen[bytes]", status_end: int, status_fd: int) -> None:
        self._supervisor, self._status_end, self._status_fd = supervisor, status_end, status_fd
        self._received = b""
        self._is_closed = False
        self._pid: int | None = None

    def __enter__(self) -> "_SupervisedProgram":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        assert self._supervisor.stdin is not None
        try:
            if kind is not None and self._pid is not None:
                self.request_stop()
                self.read_status()
        finally:
            with suppress(OSError):
                self._supervisor.stdin.close()  # the supervisor kills what still runs
            self._supervisor.wait()
            os.close(self._status_end)
            if self._supervisor.returncode < 0 and self._pid is not None:  # it can no longer end the program's children
                with suppress(OSError):
                    os.killpg(self._pid, signal.SIGKILL)

    def start(self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path, grace_seconds: float) -> None:
        """Start the program.

        Raises:
            ConfigError: If that is not possible.
        """
        request = {
            "argv": list(argv),
            "cwd": str(cwd),
            "environment": {"PYTHONUNBUFFERED": "1", **environment},
            "status_fd": self._status_fd,
            "grace_seconds": grace_seconds,
        }
        self._write(json.dumps(request).encode() + b"\n")
        started = self.read_status()
        if started is not None and "errno" in started:
            raise ConfigError(_explain_start_error(started["errno"], started["is_cwd"], argv, cwd))
        self._pid = started["pid"] if started else None

    def request_stop(self) -> None:
        self._write(b"stop\n")

    def has_status(self, seconds: float) -> bool:
        """Return whether the supervisor has sent a status, or has died, after at most `seconds`."""
        deadline = time.monotonic() + seconds
        while not self._is_closed and b"\n" not in self._received:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([self._status_end], [], [], remaining)[0]:
                return False
            self._receive()
        return True

    def read_status(self) -> dict[str, Any] | None:
        """Wait for the next status and return it, None if the supervisor has died."""
        while not self._is_closed and b"\n" not in self._received:
            self._receive()
        line, newline, self._received = self._received.partition(b"\n")
        return json.loads(line) if newline else None

    def _receive(self) -> None:
        data = os.read(self._status_end, 4096)
        self._received += data
        self._is_closed = not data

    def _write(self, data: bytes) -> None:
        assert self._supervisor.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which read_status reports
            self._supervisor.stdin.write(data)
            self._supervisor.stdin.flush()


def _start_supervisor(log_path: Path) -> _SupervisedProgram:
    status_end, status_fd = os.pipe()
    try:
        with log_path.open("ab") as log:
            supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", str(SUPERVISOR)],  # starts in 20 ms
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(status_fd,),
                start_new_session=True,  # so that Ctrl-C reaches only the sweep
            )
    except BaseException:
        os.close(status_end)
        raise
    finally:
        os.close(status_fd)
    return _SupervisedProgram(supervisor, status_end, status_fd)


def _explain_start_error(number: int, is_cwd: bool, argv: Sequence[str], cwd: Path) -> str:
    """Return why a program could not be started, and what to do."""
    program = argv[0]
    if is_cwd:
        return f"{cwd}: {os.strerror(number).lower()}; start the sweep in a folder that exists"
    path = cwd / program
    if number == errno.ENOENT and "/" in program and path.exists():
        return f"{program}: its first line names a program that does not exist; correct it, or write sh {program}"
    if number == errno.ENOENT:
        place = "" if "/" in program else " on PATH"
        remedy = f"; for the one in this folder write ./{program}" if "/" not in program and path.exists() else ""
        return f"{program}: there is no such program{place}{remedy or '; check its name'}"
    if number in (errno.EACCES, errno.EPERM):
        if path.is_dir():
            return f"{program}: is a folder, not a program; check the command"
        return f"{program}: may not be executed; make it executable with chmod +x {program}"
    if number == errno.ENOEXEC:
        return f"{program}: is not a program; begin it with a line such as #!/bin/sh, or write sh {program}"
    if number == errno.E2BIG:
        return f"{program}: its arguments and variables are too long; put them into a file"
    return f"{program}: cannot be started: {os.strerror(number).lower()}; check the command"
