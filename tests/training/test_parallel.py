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
from tests.training.parallel_process import run_cases, run_sharded_cases


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
    processes = ProcessGroup(torch.device("cpu"))
    return {"ddp": run_cases(processes), "fsdp": run_sharded_cases(processes)}


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    prefix = tmp_path_factory.mktemp("together") / "result"
    run_processes(request.param, str(prefix))
    return [json.loads(Path(f"{prefix}.{rank}").read_text()) for rank in range(request.param)]


CASES = {
    "ddp": (
        "ragged counts", "accumulation", "more micro-batches on one process", "no example for a process", "clipping",
        "gradient scaler", "tied, frozen, complex and unused", "used by one process", "no memory in forward",
        "no memory in backward", "no memory in backward of a later micro-batch",
    ),
    "fsdp": (
        "layers", "accumulation", "more micro-batches on one process", "no example for a process", "clipping",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("parallel", "case"), [(parallel, case) for parallel in CASES for case in CASES[parallel]])
def test_processes_together_match_one(
    parallel: str, case: str, alone: dict[str, Any], together: list[dict[str, Any]]
) -> None:
    expected = alone[parallel][case]
    assert len(expected["losses"]) == 6
    for result in (ranks[parallel][case] for ranks in together):
        for key in ("losses", "grad_norms", "val_losses"):
            assert result[key] == pytest.approx(expected[key], abs=1e-5), key
        assert result["weights"].keys() == expected["weights"].keys()
        for name, values in expected["weights"].items():
            assert name == "calls" or result["weights"][name] == pytest.approx(values, abs=1e-5), name
    sizes = [ranks[parallel][case]["sizes"] for ranks in together]
    assert expected["sizes"] == []
    assert bool(sizes[0]) == case.startswith("no memory")
    assert all(size == sizes[0] for size in sizes)
