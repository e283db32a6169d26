"""Run a trial in several processes, which torchrun starts by the worker's own command.

The worker claims and ends the trial. Each process connects to it by a socket, gets the trial, and sends its result.
Only the first one reports and gets a signal to stop: processes that train together tell each other. All of them exit
when the worker dies, since the socket closes.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from math import inf
from multiprocessing.connection import Client, Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from optuna.trial import Trial

from harness.core.ranks import has_lost_peers
from harness.core.shortage import ShortageError
from harness.core.signals import end_before_teardown
from harness.core.threads import count_cores
from harness.sweep.hydra_app_internals import WORKER_VARIABLE
from harness.sweep.study.pruning import Advice
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import MakeRunner, Reporter, TrialJob, TrialRunner, run_caught

SOCKET_VARIABLE = "HARNESS_TRIAL_SOCKET"
"""In the environment of a process that runs a trial together with others: the path of the worker's socket."""
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # that the others have to end after the first process has, or one has failed, before the run's end
KILL_SECONDS = 45.0  # torchrun itself kills its processes 30 s after SIGTERM


class Hello(NamedTuple):
    """The first message of a process, which is answered with the study's settings, the program and the job."""

    rank: int
    pid: int


class Question(NamedTuple):
    """A call of a method of the worker's, which is answered with what it returns."""

    name: str
    args: tuple[Any, ...] = ()
    options: Mapping[str, Any] = {}


class End(NamedTuple):
    """The last message of a process: its result. With `is_shortage`, there was no space left, as its reason says."""

    result: TrialResult
    is_shortage: bool = False


class TorchrunRunner:
    """Runs each trial of `runner` in several processes, each of which `command` starts.

    `program` is what the runner in each of them needs.
    """

    def __init__(
        self, runner: TrialRunner, spec: StudySpec, program: Mapping[str, Any], command: Sequence[str], n_processes: int
    ) -> None:
        self._runner, self._spec, self._program, self._size = runner, spec, program, n_processes
        self._command = [*prefix_torchrun(n_processes), *command]

    def extend_trial(self, trial: Trial) -> None:
        self._runner.extend_trial(trial)

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        """Run a trial in its processes. If one of them dies, the worker exits, and the sweep treats it as dead.

        Raises:
            ShortageError: If one of them found no space left.
        """
        with ExitStack() as stack:
            folder = stack.enter_context(TemporaryDirectory(prefix="plateau-"))  # which only this user can open
            server = stack.enter_context(socket.socket(socket.AF_UNIX))
            server.bind(str(Path(folder, "socket")))
            server.listen(self._size)
            environment = {
                "OMP_NUM_THREADS": str(max(1, count_cores() // self._size)),
                **os.environ,
                WORKER_VARIABLE: "1",
                SOCKET_VARIABLE: server.getsockname(),
            }
            torchrun = subprocess.Popen(self._command, env=environment, stdin=subprocess.DEVNULL)
            stack.callback(_end_torchrun, torchrun)
            processes = _TrialProcesses(server, (self._spec, self._program, job), reporter, should_stop)
            stack.callback(processes.disconnect)
            processes.serve(torchrun)
        return processes.conclude(job.number, self._size)


def prefix_torchrun(n_processes: int) -> list[str]:
    """Return what starts the command behind it in several processes on this machine, on a port that is free."""
    options = ["--standalone", f"--nproc-per-node={n_processes}", "--no-python"]
    return [sys.executable, "-m", "torch.distributed.run", *options]


def _end_torchrun(torchrun: "subprocess.Popen[bytes]") -> None:
    """End torchrun, whose processes exit when they are disconnected."""
    if torchrun.poll() is None:
        torchrun.terminate()
    try:
        torchrun.wait(KILL_SECONDS)
    except subprocess.TimeoutExpired:
        torchrun.kill()
        torchrun.wait()


class _TrialProcesses:
    """The worker's end of the processes of a trial."""

    def __init__(
        self,
        server: socket.socket,
        task: tuple[StudySpec, Mapping[str, Any], TrialJob],
        reporter: Reporter,
        should_stop: Callable[[], bool],
    ) -> None:
        self._server, self._task, self._should_stop = server, task, should_stop
        self._answers: dict[str, Callable[..., Any]] = {
            "report_share": reporter.report_share,
            "report_step": reporter.report_step,
            "fraction_done": lambda: reporter.fraction_done,
            "should_stop": should_stop,
        }
        self._ranks: dict[Connection, int | None] = {}  # None before the first message
        self._ends: dict[int, End] = {}
        self._first_pid: int | None = None
        self._is_stopping, self._deadline = False, inf

    def serve(self, torchrun: "subprocess.Popen[bytes]") -> None:
        """Answer the processes until torchrun ends, or they have had time to end."""
        while torchrun.poll() is None and time.monotonic() < self._deadline:
            for ready in wait([self._server, *self._ranks], POLL_SECONDS):
                if isinstance(ready, Connection):
                    self._answer(ready)
                else:
                    self._ranks[Connection(self._server.accept()[0].detach())] = None
            if not self._is_stopping and self._should_stop():
                self._is_stopping = True
            if self._is_stopping and self._first_pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(self._first_pid, signal.SIGTERM)
                self._first_pid = None
        for connection in [*self._ranks]:
            while connection in self._ranks and connection.poll():
                self._answer(connection)

    def disconnect(self) -> None:
        """Close the connections, at which the processes exit that still run."""
        for connection in self._ranks:
            connection.close()

    def conclude(self, number: int, size: int) -> TrialResult:
        """Return the result of the trial: that of the first process, unless another one has failed.

        Raises:
            ShortageError: If one of them found no space left.
            SystemExit: If the first one has no result because a process has died.
        """
        ends = [self._ends[rank] for rank in sorted(self._ends)]
        if short := [end.result.reason for end in ends if end.is_shortage]:
            raise ShortageError(short[0])
        if failed := [end.result for end in ends if end.result.status == "failed"]:
            return failed[0]
        first = self._ends[0].result if 0 in self._ends else None
        if first is None or (first.status == "interrupted" and not self._is_stopping):
            dead = [str(rank) for rank in range(size) if rank not in self._ends]
            reasons = [f"process{'es' * bool(dead[1:])} {', '.join(dead)} of {size} died"] if dead else []
            sys.exit(f"trial {number}: {'; '.join([*reasons, *(end.result.reason for end in ends[:1])])}")
        return first

    def _answer(self, connection: Connection) -> None:
        """Read a message and answer it."""
        try:
            message = connection.recv()
        except (EOFError, OSError):
            del self._ranks[connection]
            connection.close()
            return
        answer: Any = self._task
        match message:
            case Hello():
                self._ranks[connection] = message.rank
                self._first_pid = message.pid if message.rank == 0 else self._first_pid
            case Question():
                answer = self._answers[message.name](*message.args, **message.options)
            case End():
                self._take_end(self._ranks[connection], message)
                return
        with suppress(OSError):  # it has died
            connection.send(answer)

    def _take_end(self, rank: int | None, end: End) -> None:
        assert rank is not None
        self._ends[rank] = end
        if rank == 0:
            self._first_pid = None
        is_last = rank == 0 and end.result.status != "completed"
        if is_last or end.result.status in ("failed", "interrupted"):
            self._deadline = min(self._deadline, time.monotonic() + GRACE_SECONDS)


def run_trial_process(make_runner: MakeRunner) -> int:
    """Run the trial of the worker at SOCKET_VARIABLE as one of its processes; return the exit status."""
    rank = int(os.environ["RANK"])
    connection = Client(os.environ.pop(SOCKET_VARIABLE), family="AF_UNIX")
    threading.Thread(target=_exit_with_worker, args=[connection], daemon=True).start()
    connection.send(Hello(rank, os.getpid()))
    spec, program, job = connection.recv()
    reporter = _RemoteReporter(connection) if rank == 0 else _SilentReporter()

    def run() -> TrialResult:
        try:
            return make_runner(spec, program).run_trial(job, reporter, reporter.should_stop)
        except Exception as error:
            if has_lost_peers(error):
                return TrialResult("interrupted", str(error))
            raise

    try:
        end = End(run_caught(run, job.folder))
    except ShortageError as error:
        end = End(TrialResult("interrupted", str(error)), is_shortage=True)
    connection.send(end)
    status = int(end.result.status == "failed" or end.is_shortage)
    end_before_teardown(status)
    return status


class _RemoteReporter:
    """The reporter of the first process, which asks the worker."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def fraction_done(self) -> float:
        share: float = self._ask("fraction_done")
        return share

    def report_share(self, value: float, fraction_done: float, *, can_pause: bool = False) -> Advice:
        advice: Advice = self._ask("report_share", value, fraction_done, can_pause=can_pause)
        return advice

    def report_step(
        self, value: float, step: int, total_steps: int | None = None, *, can_pause: bool = False
    ) -> Advice:
        advice: Advice = self._ask("report_step", value, step, total_steps, can_pause=can_pause)
        return advice

    def should_stop(self) -> bool:
        return bool(self._ask("should_stop"))

    def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        self._connection.send(Question(name, args, options))
        return self._connection.recv()


class _SilentReporter:
    """The reporter of the other processes, which follow the first one."""

    fraction_done = 0.0

    def report_share(self, value: float, fraction_done: float, *, can_pause: bool = False) -> Advice:
        return "continue"

    def report_step(
        self, value: float, step: int, total_steps: int | None = None, *, can_pause: bool = False
    ) -> Advice:
        return "continue"

    def should_stop(self) -> bool:
        return False


def _exit_with_worker(connection: Connection) -> None:
    """Kill this process when the worker closes the connection."""
    poll = select.poll()
    poll.register(connection.fileno(), 0)  # only the end of the connection, which is always reported
    poll.poll()
    kill_own_group()


def kill_own_group() -> None:
    """Kill this process and, if it leads a process group, those that it has started."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)
