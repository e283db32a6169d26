"""Sweeps of commands for tests: one trial in this process, and whole sweeps in processes of their own."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial

from harness import cli
from harness.commands.sweep import _read_command_sweep, parse_sweep_arguments
from harness.record.metrics_file import TRIAL_FILE
from harness.sweep.programs.command.request import build_command_request
from harness.sweep.programs.command.runner import CommandRunner
from harness.sweep.request import SweepRequest
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.trial_attrs import RETRY_OF, TrialResult
from harness.sweep.trial_runner import TrialJob
from tests.conftest import ROOT

SCRIPTS = Path(__file__).with_name("scripts")
PROGRAM = [sys.executable, "-m", "harness", "sweep", "--no-mlflow"]


class AlwaysPrune(optuna.pruners.BasePruner):
    """Prune every trial at its first value."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return True


def copy_script(name: str) -> None:
    """Copy a script into the current folder."""
    shutil.copy(SCRIPTS / f"{name}.txt", name)


def read_request(line: str) -> SweepRequest:
    """Return the request of `plateau sweep LINE`."""
    arguments = ["--no-mlflow", *shlex.split(line)]
    args, words = parse_sweep_arguments(arguments)
    return build_command_request(_read_command_sweep(args, words, arguments))


def run_trial(
    line: str,
    values: Mapping[str, Any],
    number: int = 0,
    pruner: optuna.pruners.BasePruner | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    test_metric: str | None = None,
) -> TrialResult:
    """Run a trial of `plateau sweep LINE` in this process, or one of its confirmation with a `test_metric`."""
    request = read_request(line)
    spec = request.spec
    if test_metric is not None:
        spec = replace(spec, objectives=[*spec.objectives, test_metric], directions=[*spec.directions] * 2)
    study = optuna.create_study(pruner=pruner or optuna.pruners.NopPruner())
    request.folder.mkdir(parents=True, exist_ok=True)
    job = TrialJob(number, values, request.folder / str(number), None, request.study_name, "1")
    reporter = TrialReporter(study.ask(), 0.0)
    try:
        return CommandRunner(spec, request.program).run_trial(job, reporter, should_stop)
    finally:
        reporter.close(is_complete=False)


def run_sweep(line: str) -> int:
    """Return the exit status of `plateau sweep LINE`, whose workers are processes."""
    return cli.main(["sweep", "--no-mlflow", *shlex.split(line)])


def start_sweep(line: str, **options: Any) -> "subprocess.Popen[str]":
    """Start `plateau sweep LINE` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*PROGRAM, *shlex.split(line)], env=environment, text=True, **options)


def sweep_folder(study: str) -> Path:
    return Path("outputs/sweeps") / study


def read_log(study: str, number: int) -> str:
    return (sweep_folder(study) / str(number) / "output.log").read_text()


def read_record(study: str, number: int = 0) -> list[dict[str, Any]]:
    """Return the entries of the record of a trial."""
    return [json.loads(line) for line in (sweep_folder(study) / str(number) / TRIAL_FILE).read_text().splitlines()]


def load_trials(study: str, name: str | None = None) -> list[FrozenTrial]:
    """Return the trials of a study in the journal of its folder; its `name` is that of the folder by default."""
    storage = JournalStorage(JournalFileBackend(str(sweep_folder(study) / "study.journal")))
    return optuna.load_study(study_name=name or study, storage=storage).trials


def count_first_attempts(trials: list[FrozenTrial]) -> int:
    return sum(RETRY_OF not in trial.user_attrs for trial in trials)


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    """Wait until something is true.

    Raises:
        TimeoutError: If it is not in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.02)
