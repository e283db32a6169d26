"""Several processes train as one does."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.core.distributed import ProcessGroup
from tests.conftest import ROOT
from tests.tracking.stores import free_port
from tests.training.parallel_process import run_cases


def run_processes(size: int, *arguments: str, module: str = "tests.training.parallel_process") -> None:
    """Run a module once per rank of a group."""
    command = [sys.executable, "-m", module, *arguments]
    group = {**os.environ, "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [subprocess.Popen(command, cwd=ROOT, env={**group, "RANK": str(rank)}) for rank in range(size)]
    try:
        assert [rank.wait(100) for rank in ranks] == [0] * size
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    return run_cases(ProcessGroup(torch.device("cpu")))


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    prefix = tmp_path_factory.mktemp("together") / "result"
    run_processes(request.param, str(prefix))
    return [json.loads(Path(f"{prefix}.{rank}").read_text()) for rank in range(request.param)]


CASES = (
    "ragged counts", "accumulation", "more micro-batches on one process", "no example for a process", "clipping",
    "gradient scaler", "tied, frozen, complex and unused", "used by one process", "no memory in forward",
    "no memory in backward", "no memory in backward of a later micro-batch",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_processes_together_match_one(case: str, alone: dict[str, Any], together: list[dict[str, Any]]) -> None:
    assert len(alone[case]["losses"]) == 6
    for result in (ranks[case] for ranks in together):
        for key in ("losses", "grad_norms", "val_losses"):
            assert result[key] == pytest.approx(alone[case][key], abs=1e-5), key
        assert result["weights"].keys() == alone[case]["weights"].keys()
        for name, values in alone[case]["weights"].items():
            assert name == "calls" or result["weights"][name] == pytest.approx(values, abs=1e-5), name
    assert alone[case]["sizes"] == []
    assert bool(together[0][case]["sizes"]) == case.startswith("no memory")
    assert all(ranks[case]["sizes"] == together[0][case]["sizes"] for ranks in together)
