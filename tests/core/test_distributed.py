"""Device selection and process groups."""

import pytest
import torch

from harness.core.distributed import ProcessGroup, join_process_group, select_device


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
