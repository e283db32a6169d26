"""Runs with parallel=fsdp give the losses of one process, and other processes resume them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from harness.config.compose import compose_config
from harness.run.runner import run
from harness.training.checkpoint import find_damage, read_checkpoint
from tests.conftest import ROOT
from tests.run.test_run import SMOKE, read_series, run_with_torchrun

TRAINING = [*SMOKE, "observers=metrics_only", "data=pydoc_qa", "model.dropout=0.0", "loop.max_steps=6", "loop.evals=2"]
SHARDED = [*TRAINING, "parallel=fsdp"]


def assert_equal_curves(folder: Path, expected: Path, first_step: int = 0) -> None:
    for name in ("train/loss", "train/grad_norm", "val/loss"):
        found, other = read_series(folder, name), read_series(expected, name)
        assert found == pytest.approx(other[-len(found) :], abs=1e-5), name
    assert len(read_series(folder, "train/loss")) == 6 - first_step


def test_sharded_run_matches_one_process_which_resumes_it(places, tmp_path) -> None:
    alone = run(compose_config([*TRAINING, *places, "name=alone"]))
    run_with_torchrun(*SHARDED, *places, "name=sharded")
    [sharded] = (tmp_path / "outputs").glob("*_sharded")
    assert_equal_curves(sharded, alone.folder)
    checkpoint = sharded / "checkpoints" / "best"
    assert len([*(checkpoint / "moments").iterdir()]) == 2
    whole, expected = (read_checkpoint(folder / "checkpoints" / "best") for folder in (sharded, alone.folder))
    assert whole["model"].keys() == expected["model"].keys()
    assert all(torch.allclose(whole["model"][name], expected["model"][name], atol=1e-5) for name in whole["model"])
    resumed = run(compose_config([*TRAINING, *places, "start=resume", f"start.run={sharded}", "start.checkpoint=3"]))
    assert_equal_curves(resumed.folder, alone.folder, 3)
    next((checkpoint / "moments").iterdir()).write_bytes(b"damaged")
    assert "moments/" in (find_damage(checkpoint) or "")


@pytest.mark.slow
def test_resuming_onto_other_processes(places, tmp_path) -> None:
    for name, choices in (("whole", []), ("lora", ["lora=all_linear"])):
        alone = run(compose_config([*TRAINING, *places, *choices, f"name=alone_{name}"]))
        run_with_torchrun(*SHARDED, *places, *choices, f"name=sharded_{name}")
        [sharded] = (tmp_path / "outputs").glob(f"*_sharded_{name}")
        assert_equal_curves(sharded, alone.folder)
        for source, n_processes, parallel in ((sharded, 4, "fsdp"), (sharded, 2, "ddp"), (alone.folder, 2, "fsdp")):
            again = f"{name}_{source.name[-5:]}_{n_processes}_{parallel}"
            resume = ["start=resume", f"start.run={source}", "start.checkpoint=3", f"parallel={parallel}"]
            run_with_torchrun(*TRAINING, *places, *choices, *resume, f"name={again}", n_processes=n_processes)
            [resumed] = (tmp_path / "outputs").glob(f"*_{again}")
            assert_equal_curves(resumed, alone.folder, 3)


@pytest.mark.slow
def test_complex_weights_are_refused_by_name(places) -> None:
    operator = ["experiment=operator", "device=cpu", "data.train=32", "data.held_out=16", "model.width=8"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "run.py"]
    done = subprocess.run(
        [*launcher, *operator, *places, "parallel=fsdp"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert "parallel: fully_shard cannot add up complex gradients (network.fno_blocks.convs.0.weight" in done.stderr
    assert "exitcode  : 2" in done.stderr
