"""Devices that are not there are refused by name; what is chosen automatically is there; all processes do the same."""

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


def test_auto_picks_a_device_that_is_there() -> None:
    assert torch.zeros(1, device=select_device("auto")).item() == 0


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_mps_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="mps was asked for, and there is none here"):
        select_device("mps")


def test_an_unknown_device_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="'tpu' is no device; choose auto, cuda, mps, cpu"):
        select_device("tpu")


def test_mps_takes_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="mps takes one process"):
        join_process_group("mps")


def test_a_single_process_shares_and_sums_with_itself() -> None:
    world = ProcessGroup(torch.device("cpu"))
    assert list(world.shard([1, 2, 3])) == [1, 2, 3]
    assert world.all_reduce([1.5, 2.0]) == [1.5, 2.0]
    assert world.run_main_first(lambda: "made") == world.broadcast("made") == "made"


def test_where_one_process_lacks_memory_all_split_anew_together_and_no_loss_changes(tmp_path) -> None:
    command = [sys.executable, "-m", "tests.training.out_of_memory_process", str(tmp_path / "told")]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen(command, cwd=ROOT, env={**group, "RANK": rank}) for rank in "01"]
    assert [rank.wait(60) for rank in ranks] == [0, 0]
    alone = train_with_limited_memory(ProcessGroup(torch.device("cpu")))
    together = [json.loads((tmp_path / f"told.{rank}").read_text()) for rank in "01"]
    assert alone["sizes"] == []
    for one in together:
        assert one["sizes"] == [8, 4]
        assert one["losses"] == pytest.approx(alone["losses"], abs=1e-6)
