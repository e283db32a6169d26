"""Trials that run in two processes which torchrun starts: their reports, their ends, and their deaths."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from harness.core.shortage import ShortageError
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import TrialJob
from harness.sweep.workers import trial_processes
from tests.conftest import ROOT
from tests.sweep.test_sweeper import is_alive, wait_for
from tests.sweep.workers.toy_trial import ToyReporter, run_toy


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrialJob:
    monkeypatch.chdir(ROOT)
    return TrialJob(3, {}, tmp_path / "3", None, "toy", "1")


def read_pids(job: TrialJob) -> list[int]:
    return [int(text) for rank in "01" if (text := (job.folder / f"pid-{rank}").read_text())]


def test_the_first_process_reports_and_gives_the_result(job: TrialJob) -> None:
    reporter = ToyReporter(pause_at=0.5)
    result = run_toy(job, reporter, rank0="report", rank1="report")
    assert result == TrialResult("paused", fraction_done=0.5)
    assert reporter.reported == [(0.25, 0.25), (0.5, 0.5)]


def test_a_failure_of_another_process_is_that_of_the_trial_and_ends_the_first(job: TrialJob, monkeypatch) -> None:
    monkeypatch.setattr(trial_processes, "GRACE_SECONDS", 0.5)
    result = run_toy(job, rank0="hang", rank1="fail")
    assert (result.status, result.reason) == ("failed", "toy.value: 3 must be at most 2")
    wait_for(lambda: not any(map(is_alive, read_pids(job))), 10)


def test_a_process_that_is_killed_ends_the_worker(job: TrialJob) -> None:
    with pytest.raises(SystemExit, match="trial 3: process 1 of 2 died; process 0 has lost another one"):
        run_toy(job, rank0="lose the others", rank1="die")


@pytest.mark.slow
def test_a_process_that_is_killed_after_the_first_has_completed_changes_nothing(job: TrialJob) -> None:
    assert run_toy(job, rank1="die") == TrialResult("completed", values=(0.0,))


@pytest.mark.slow
def test_a_full_disk_of_one_process_is_no_failure(job: TrialJob) -> None:
    with pytest.raises(ShortageError, match="no space left on toy"):
        run_toy(job, rank0="lose the others", rank1="fill the disk")


def test_a_request_to_stop_reaches_the_first_process_and_all_end(job: TrialJob, monkeypatch) -> None:
    monkeypatch.setattr(trial_processes, "GRACE_SECONDS", 0.5)
    result = run_toy(job, should_stop=(job.folder / "pid-0").exists, rank0="wait", rank1="hang")
    assert (result.status, result.reason) == ("interrupted", "was told to stop")
    wait_for(lambda: not any(map(is_alive, read_pids(job))), 10)


def test_processes_end_when_their_worker_is_killed(job: TrialJob) -> None:
    code = (
        "from tests.sweep.workers.toy_trial import *; from pathlib import Path\n"
        f"run_toy(TrialJob(3, {{}}, Path({str(job.folder)!r}), None, 'toy', '1'), rank0='hang', rank1='hang')"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for(lambda: all((job.folder / f"pid-{rank}").exists() for rank in "01"), 120)
    pids = read_pids(job)
    assert all(map(is_alive, pids))
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    wait_for(lambda: not any(map(is_alive, pids)), 10)
