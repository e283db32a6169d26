"""A worker process: claim a trial, run it, record its result, and repeat until the study has no more trials.

It is started as `python -m harness.sweep.programs.worker`, or as the program that the trials run, with WORKER_VARIABLE
in its environment and a `WorkerSpec` as one line of JSON on its standard input. When its parent dies, standard input
closes, and the worker exits.
"""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import optuna
from optuna.trial import Trial

from harness.core.credentials import hide_credentials_in_tracebacks
from harness.core.shortage import ShortageError, describe_shortage
from harness.sweep.hydra_app_internals import WORKER_VARIABLE
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.liveness import send_heartbeats
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.recorded_result import read_interrupted_result
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import STORAGE_ERRORS, open_storage
from harness.sweep.study.trial_attrs import (
    BASELINE,
    SEED_RUN,
    STUDY_SPEC,
    SWEEP_ID,
    TrialResult,
    has_checkpoint,
    read_trial_result,
    trial_values,
)
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.trial_runner import MakeRunner, TrialJob, TrialRunner, run_caught
from harness.sweep.workers.checkpoints import delete_losing_checkpoints, delete_paused_checkpoints
from harness.sweep.workers.trial_processes import (
    SOCKET_VARIABLE,
    TorchrunRunner,
    kill_own_group,
    run_trial_process,
)
from harness.tracking.run_names import CONFIG_TAG, SEED_TAG

EXIT_OK, EXIT_CRASHED = 0, 1
EXIT_SHORTAGE = 75  # EX_TEMPFAIL of sysexits.h: the disk is full, or too many files are open
STOP_POLL_SECONDS = 2.0  # between two questions to the storage whether to stop


@dataclass(frozen=True)
class WorkerSpec:
    """Settings of a worker: the study, its storage, the sweep's folder and the number of CPU threads.

    `program` is what its runner needs to run trials. `command` starts the process in the folder `cwd`. The `gpus`, by
    their ids, are shared by `n_jobs` workers. `devices_per_trial` is None if the user has set no number. A trial runs
    in the worker, or in `n_processes` that torchrun starts.
    """

    study_name: str
    storage: str | None
    folder: str
    n_threads: int | None
    program: Mapping[str, Any]
    command: Sequence[str]
    cwd: str
    gpus: Sequence[str] = ()
    n_jobs: int = 1
    devices_per_trial: int | None = None
    n_processes: int = 1

    def select_gpus(self, index: int) -> Sequence[str]:
        """Return the GPUs of one worker: as many as a trial has, or an equal share; others use them too if too few."""
        n_each = self.devices_per_trial or max(1, len(self.gpus) // self.n_jobs)
        start = index % (len(self.gpus) // n_each) * n_each
        return self.gpus[start : start + n_each]


def spawn_worker(spec: WorkerSpec, index: int) -> subprocess.Popen[str]:
    """Start a worker that exits with this process and sees its share of the GPUs, all if it is the only one.

    It prints to its log.
    """
    environment = {**os.environ, WORKER_VARIABLE: "1"}
    if spec.gpus and (spec.n_jobs > 1 or spec.devices_per_trial):
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(spec.select_gpus(index))
    if spec.n_threads is not None:
        environment["OMP_NUM_THREADS"] = str(spec.n_threads)
    with worker_log_path(spec.folder, index).open("ab") as log:
        process = subprocess.Popen(
            spec.command,
            cwd=spec.cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            text=True,
            process_group=0,  # so that Ctrl-C reaches only the sweep, which then sends SIGTERM to its workers
        )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it has died already, which the pool sees
        process.stdin.write(json.dumps(asdict(spec)) + "\n")
        process.stdin.flush()
    return process


def kill_worker(pid: int) -> None:
    """Kill a worker with the processes that it has started, which are in its process group."""
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(pid, signal.SIGKILL)


def worker_log_path(sweep_folder: str | Path, index: int) -> Path:
    return Path(sweep_folder) / f"worker-{index}.log"


def run_worker(make_runner: MakeRunner, is_stopping: Callable[[], bool]) -> int:
    """Run trials as a worker process does, with the specification on standard input; return the exit status.

    A process that torchrun has started for a worker runs one trial. `is_stopping` is asked between trials.
    """
    os.environ.pop(WORKER_VARIABLE, None)  # programs that this one starts are no workers
    if SOCKET_VARIABLE in os.environ:
        return run_trial_process(make_runner)
    stdin = _take_stdin()
    line = stdin.readline()
    if not line:
        return EXIT_CRASHED  # the sweep died
    spec = WorkerSpec(**json.loads(line))
    hide_credentials_in_tracebacks(spec.storage or "")  # its log is in the sweep's folder
    threading.Thread(target=_exit_with_parent, args=[stdin], daemon=True).start()
    silence_optuna()
    try:
        run_trials(spec, make_runner, is_stopping)
    except Exception as error:
        shortage = describe_shortage(error, Path(spec.folder))
        if not shortage:
            raise
        with suppress(OSError):  # the log is on the full disk
            print(shortage, file=sys.stderr, flush=True)
        return EXIT_SHORTAGE
    return EXIT_OK


def run_trials(spec: WorkerSpec, make_runner: MakeRunner, is_stopping: Callable[[], bool]) -> None:
    """Run trials until none are left or the worker is asked to stop.

    Raises:
        ShortageError: If there is no space left; the trial was interrupted.
    """
    study, study_spec = open_worker_study(spec)
    runner = make_runner(study_spec, spec.program)
    if spec.n_processes > 1:
        runner = TorchrunRunner(runner, study_spec, spec.program, spec.command, spec.n_processes)
    queue = TrialQueue(study, study_spec.build_search_space(), Path(spec.folder), runner.extend_trial)
    while not is_stopping():
        trial = queue.claim_trial()
        if trial is None:
            return
        with send_heartbeats(trial):
            shortage = None
            try:
                result = _run_trial(runner, trial, queue, study_spec, spec, is_stopping)
            except ShortageError as error:
                shortage, result = error, _describe_shortage(trial, Path(spec.folder), error)
            queue.finish_trial(trial, result)
        if shortage:
            raise shortage
        if study_spec.keep is not None:
            delete_losing_checkpoints(queue.study, Path(spec.folder), study_spec.keep)
        if result.status == "paused":
            with queue.hold_lock():  # no trial is continued meanwhile
                delete_paused_checkpoints(queue.study, Path(spec.folder), study_spec.max_disk)
        if result.status == "interrupted":
            return


def _describe_shortage(trial: Trial, folder: Path, error: ShortageError) -> TrialResult:
    """Return the result of a trial that found no space left; one that has reported a checkpoint can be continued."""
    reached = read_interrupted_result(folder / str(trial.number)) or TrialResult("interrupted")
    return replace(reached, reason=str(error))


def open_worker_study(spec: WorkerSpec) -> tuple[optuna.Study, StudySpec]:
    """Open an existing study with the sampler and pruner it was created with."""
    study = optuna.load_study(study_name=spec.study_name, storage=open_storage(spec.storage, Path(spec.folder)))
    study_spec = StudySpec(**study.user_attrs[STUDY_SPEC])
    study.sampler, study.pruner = study_spec.make_sampler(), study_spec.make_pruner()
    return study, study_spec


def _run_trial(
    runner: TrialRunner,
    trial: Trial,
    queue: TrialQueue,
    study_spec: StudySpec,
    spec: WorkerSpec,
    is_stopping: Callable[[], bool],
) -> TrialResult:
    """Run a trial. Errors become a failed result, so that the worker goes on to the next trial.

    Raises:
        ShortageError: If there is no space left, which is not the trial's fault.
    """
    folder = Path(spec.folder) / str(trial.number)
    is_baseline = BASELINE in trial.user_attrs  # never pruned: every report compares with it
    reporter = TrialReporter(trial, 1.0 if is_baseline else study_spec.warmup_share)
    job = TrialJob(
        number=trial.number,
        values=trial_values(trial),
        folder=folder,
        n_threads=spec.n_threads,
        study_name=spec.study_name,
        sweep_id=queue.study.user_attrs[SWEEP_ID],
        tags=_describe_seed_run(trial),
        rungs=study_spec.list_rungs() if len(study_spec.objectives) == 1 else (),
        is_continued=has_checkpoint(trial),
        checkpoint=str(read_trial_result(trial).get("checkpoint", "")),
    )
    should_stop, is_complete = _make_stop_question(is_stopping, queue), False
    try:
        result = run_caught(lambda: runner.run_trial(job, reporter, should_stop), folder, spec.storage or "")
        is_complete = result.status == "completed"
        return result
    finally:
        reporter.close(is_complete=is_complete)


def _describe_seed_run(trial: Trial) -> dict[str, str]:
    """Return the tags of one of several runs of a configuration, none for others."""
    run = trial.user_attrs.get(SEED_RUN)
    return {CONFIG_TAG: run["config"], SEED_TAG: str(run["seed"])} if run else {}


def _make_stop_question(is_stopping: Callable[[], bool], queue: TrialQueue) -> Callable[[], bool]:
    """Return a function that says whether the trial should stop; a storage that does not answer asks for nothing."""
    asked_at = time.monotonic()

    def should_stop() -> bool:
        nonlocal asked_at
        if is_stopping():
            return True
        if time.monotonic() - asked_at < STOP_POLL_SECONDS:
            return False
        asked_at = time.monotonic()
        try:
            return queue.is_stopping()
        except STORAGE_ERRORS:
            return False

    return should_stop


def _take_stdin() -> TextIO:
    """Return standard input, and leave an empty one to the program, which may read it."""
    stdin, sys.stdin = sys.stdin, io.StringIO()
    return stdin


def _exit_with_parent(stdin: TextIO) -> None:
    stdin.read()  # returns when the parent has died
    kill_own_group()
