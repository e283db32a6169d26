"""Device selection and process groups."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.core.distributed import ProcessGroup, join_process_group, select_device
from tests.tracking.stores import free_port
from tests.training.out_of_memory_process import train_with_limited_memory

ROOT = Path(__file__).parents[2]


def test_auto_selects_an_available_device() -> None:
    assert torch.zeros(1, device=select_device("auto")).item() == 0


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_unavailable_device_is_refused() -> None:
    with pytest.raises(ValueError, match="mps is not available"):
        select_device("mps")


def test_unknown_device_is_refused() -> None:
    with pytest.raises(ValueError, match="'tpu' must be one of auto, cuda, mps, cpu"):
        select_device("tpu")


def test_mps_refuses_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="mps supports one process"):
        join_process_group("mps")


def test_single_process_group_is_local() -> None:
    processes = ProcessGroup(torch.device("cpu"))
    assert list(processes.shard([1, 2, 3])) == [1, 2, 3]
    assert processes.all_reduce([1.5, 2.0]) == [1.5, 2.0]
    assert processes.run_main_first(lambda: "made") == processes.broadcast("made") == "made"


def test_all_processes_shrink_micro_batches_together_without_changing_losses(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.training.out_of_memory_process", str(tmp_path / "result")]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen(command, cwd=ROOT, env={**group, "RANK": rank}) for rank in "01"]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    alone = train_with_limited_memory(ProcessGroup(torch.device("cpu")))
    assert alone["sizes"] == []
    for rank in "01":
        together = json.loads((tmp_path / f"result.{rank}").read_text())
        assert together["sizes"] == [8, 4]
        assert together["losses"] == pytest.approx(alone["losses"], abs=1e-6)
