"""The first process of a training, by its environment or by its process group."""

import multiprocessing
from pathlib import Path

import pytest
import torch.distributed as dist

from harness.core.ranks import count_processes, is_first_process, is_helper_process


@pytest.mark.parametrize(
    ("environment", "is_first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0"}, True),
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),  # torchrun, on the second machine
        ({"NODE_RANK": "0", "LOCAL_RANK": "1"}, False),  # Lightning's own launcher
        ({"NODE_RANK": "1", "LOCAL_RANK": "0"}, False),
    ],
)
def test_the_environment_of_launchers_is_understood(
    environment: dict[str, str], is_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first_process() is is_first
    assert count_processes() == 1


def test_a_process_group_knows_better_than_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "3")
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        assert is_first_process()
        assert count_processes() == 1
    finally:
        dist.destroy_process_group()
    assert not is_first_process()


def test_workers_of_multiprocessing_are_helpers_unless_they_train_in_a_group(tmp_path: Path) -> None:
    assert not is_helper_process()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(is_helper_process)
        assert not pool.apply(_join_group, [f"file://{tmp_path}/group"])


def _join_group(address: str) -> bool:
    dist.init_process_group("gloo", init_method=address, rank=0, world_size=1)
    return is_helper_process()
