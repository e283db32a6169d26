"""Worker processes: their share of the GPUs, and what they leave behind when they are killed."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from harness.sweep.workers.worker import WorkerSpec, worker_log_path
from harness.sweep.workers.worker_pool import WorkerPool
from tests.conftest import ROOT
from tests.systems.kill_tools import poll_until

START_CHILD = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"


def make_spec(folder: Path, code: str, **fields: object) -> WorkerSpec:
    spec = WorkerSpec(
        study_name="s",
        storage=None,
        folder=str(folder),
        n_threads=None,
        program={},
        command=[sys.executable, "-c", code],
        cwd=str(ROOT),
    )
    return replace(spec, **fields)


@pytest.mark.parametrize(
    ("n_gpus", "n_jobs", "devices_per_trial", "expected"),
    [
        (4, 4, None, ["0", "1", "2", "3"]),
        (4, 2, None, ["0,1", "2,3"]),
        (8, 3, None, ["0,1", "2,3", "4,5"]),
        (2, 4, None, ["0", "1", "0", "1"]),
        (1, 2, None, ["0", "0"]),
        (4, 2, 2, ["0,1", "2,3"]),
        (8, 2, 2, ["0,1", "2,3"]),
        (5, 3, 2, ["0,1", "2,3", "0,1"]),
        (4, 2, 1, ["0", "1"]),
        (3, 2, 3, ["0,1,2", "0,1,2"]),
    ],
)
def test_workers_share_the_gpus(n_gpus, n_jobs, devices_per_trial, expected, tmp_path) -> None:
    gpus = [str(index) for index in range(n_gpus)]
    spec = make_spec(tmp_path, "", gpus=gpus, n_jobs=n_jobs, devices_per_trial=devices_per_trial)
    assert [",".join(spec.select_gpus(index)) for index in range(n_jobs)] == expected


@pytest.mark.parametrize(
    ("n_jobs", "devices_per_trial", "expected"), [(2, None, ["5", "7"]), (1, None, ["5,7"]), (1, 1, ["5"])]
)
def test_workers_see_their_gpus(n_jobs, devices_per_trial, expected, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'])"
    spec = make_spec(tmp_path, code, gpus=["5", "7"], n_jobs=n_jobs, devices_per_trial=devices_per_trial)
    pool = WorkerPool(spec)
    pool.start_workers(has_heartbeat_trials=False)
    assert poll_until(lambda: not pool.has_workers, 20)
    assert [worker_log_path(tmp_path, index).read_text().strip() for index in range(n_jobs)] == expected


def kill_worker(pool: WorkerPool) -> None:
    pool.kill_workers()


def close_input(pool: WorkerPool) -> None:
    """Do what the death of the sweep does."""
    pool._workers[0].stdin.close()


@pytest.mark.parametrize("end", [kill_worker, close_input])
def test_processes_of_a_killed_worker_end_with_it(end: Callable[[WorkerPool], None], tmp_path) -> None:
    wait = "import sys; from harness.sweep.workers.worker import _exit_with_parent; _exit_with_parent(sys.stdin)"
    pool = WorkerPool(make_spec(tmp_path, f"{START_CHILD}; {wait}"))
    pool.start_workers(has_heartbeat_trials=False)
    log = worker_log_path(tmp_path, 0)
    assert poll_until(lambda: log.read_text().endswith("\n"), 20)
    child = psutil.Process(int(log.read_text()))
    end(pool)
    assert poll_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE, 20)
    assert poll_until(lambda: not pool.has_workers, 20)
