"""Commands that use torchrun: their ports and GPUs, and how all of their processes end."""

import os
import re
import signal
import sys

import psutil
import pytest
from optuna.trial import TrialState

from harness.core.errors import ConfigError
from harness.sweep.programs.command.torchrun import choose_free_port, read_n_processes
from tests.sweep.programs.command.sweeps import (
    AlwaysPrune,
    copy_script,
    load_trials,
    read_log,
    read_request,
    run_trial,
    start_sweep,
    wait_for,
)
from tests.sweep.test_sweeper import is_alive

TORCHRUN = f"{sys.executable} -m torch.distributed.run --nproc-per-node 2"
COMMAND = f"-- {TORCHRUN} ddp.py --lr 'interval(0,1)'"


@pytest.fixture(autouse=True)
def script(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    copy_script("ddp.py")


@pytest.mark.parametrize(
    ("command", "n_processes", "is_free"),
    [
        ("torchrun --nproc-per-node 2 train.py --lr 1", 2, True),
        ("torchrun --nproc_per_node=4 -m pkg.train --nproc-per-node 3", 4, True),
        ("env A=1 python -u -m torch.distributed.run --nproc-per-node 3 train.py --nnodes 2", 3, True),
        ("torchrun train.py", None, True),
        ("torchrun --nproc-per-node gpu train.py", None, True),
        ("torchrun --standalone --nproc-per-node 2 train.py", 2, False),
        ("torchrun --rdzv-endpoint=host:1 --nproc-per-node 2 train.py", 2, False),
        ("torchrun --master_port 4711 --nproc-per-node 2 train.py", 2, False),
        ("python train.py --nproc-per-node 2", None, False),
    ],
)
def test_processes_and_ports_of_a_command(command: str, n_processes: int | None, is_free: bool) -> None:
    words = command.split()
    assert read_n_processes(words) == n_processes
    assert choose_free_port(words, {}) == ({"PET_STANDALONE": "1"} if is_free else {})
    assert not choose_free_port(words, {"PET_MASTER_PORT": "4711"})


@pytest.mark.parametrize(
    ("options", "n_jobs", "devices"),
    [("", 2, 2), ("--devices-per-trial 1", 4, 1), ("--devices-per-trial 4", 1, 4), ("--n-jobs 1", 1, 2)],
)
def test_workers_have_the_gpus_of_torchrun(options: str, n_jobs: int, devices: int, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    workers = read_request(f"{options} {COMMAND}").workers
    assert (workers.n_jobs, workers.devices_per_trial, workers.n_processes) == (n_jobs, devices, 1)


def test_more_gpus_than_there_are_are_refused(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7")
    with pytest.raises(ConfigError, match=r"devices_per_trial: 2: this machine has 1 GPU; lower it, or hide the GPUs"):
        read_request(COMMAND)
    with pytest.raises(ConfigError, match=r"devices_per_trial: 3: this machine has 1 GPU"):
        read_request(f"--devices-per-trial 3 {COMMAND}")


def test_workers_run_trials_of_two_processes_at_the_same_time(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    sweep = start_sweep(f"--n-trials 2 --n-jobs 2 --pruner none {COMMAND} --seconds 2")
    assert sweep.wait(300) == 0
    trials = load_trials("ddp")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert trials[0].value == pytest.approx(0.5 + 1 / 4 + 0.5)
    found = [set(re.findall(r"port (\d+) gpus ([\d,]+)", read_log("ddp", number))) for number in range(2)]
    assert all(len(one) == 1 for one in found)
    [[(port, gpus)], [(other_port, other_gpus)]] = found
    assert port != other_port
    assert {gpus, other_gpus} == {"4,5", "6,7"}


@pytest.mark.slow
def test_all_processes_of_a_pruned_trial_end() -> None:
    result = run_trial(f"{COMMAND} --steps 1000 --seconds 0.1", {"lr": 0.5}, pruner=AlwaysPrune())
    assert result.status == "pruned", result.reason
    assert not [child for child in psutil.Process().children(recursive=True) if "ddp.py" in " ".join(child.cmdline())]


@pytest.mark.slow
def test_ctrl_c_ends_all_processes() -> None:
    sweep = start_sweep(f"--n-trials 2 --n-jobs 2 {COMMAND} --steps 1000 --seconds 0.1")
    wait_for(lambda: has_log(0) and has_log(1), 120)
    processes = psutil.Process(sweep.pid).children(recursive=True)
    sweep.send_signal(signal.SIGINT)
    assert sweep.wait(90) == 128 + signal.SIGINT
    wait_for(lambda: not any(is_alive(process.pid) for process in processes), 20)


def has_log(number: int) -> bool:
    return os.path.exists(f"outputs/sweeps/ddp/{number}/output.log") and "val_loss" in read_log("ddp", number)
