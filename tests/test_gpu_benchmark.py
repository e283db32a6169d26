"""benchmarks/gpu: each part at toy size on the CPU, and parts that fail, die or take too long."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks.gpu import runner
from benchmarks.gpu.gpt2 import Scale, describe_speed
from benchmarks.gpu.parts import MAX_SECONDS, PARTS, Part
from benchmarks.gpu.setup import Setup, StepClock, find_peak_tflops
from benchmarks.gpu.worker import Request
from harness.core.digests import read_json
from harness.core.distributed import ProcessGroup

ROOT = Path(__file__).parents[1]
GPT2 = Scale(50_257, 1024, 12, 768, 12, batch=32, n_steps=20, n_skipped=5, padded_vocabulary=50_304)
QUICK = {
    "gpt2": ["bare loop", "ours", "transformers.Trainer", "ours, vocabulary 320", "bare loop, loss not read"],
    "checkpointing": ["activations kept", "activations recomputed"],
    "ltg_bert": ["BERT", "LTG-BERT"],
    "fno": ["bare loop", "ours", "experiment=operator"],
    "headlines": ["before", "after", "after - before"],
}


def make_setup(folder: Path) -> Setup:
    return Setup(ProcessGroup(torch.device("cpu")), folder, is_toy=True, peak_tflops=1.0)


def measure_here(part: str, folder: Path) -> list[dict]:
    module, name = PARTS[part].function.rsplit(".", 1)
    return list(getattr(importlib.import_module(module), name)(make_setup(folder)))


def make_request(function: str, folder: Path) -> Request:
    return Request(f"tests.broken_parts.{function}", str(folder), "cpu", True, None, None, None)


@pytest.mark.parametrize("part", QUICK)
def test_part_measures_all_arms(part: str, tmp_path: Path) -> None:
    rows = measure_here(part, tmp_path)
    assert [row["arm"] for row in rows] == QUICK[part]
    for row in rows:
        speeds = [value for name, value in row.items() if name in ("tokens/s", "samples/s", "x speed", "x bare loop")]
        assert all(speed > 0 for speed in speeds)


def test_out_of_memory_keeps_the_loss(tmp_path: Path) -> None:
    shrunk, small = measure_here("out_of_memory", tmp_path)
    assert (shrunk["micro-batches"], small["micro-batches"]) == ("8 > 4 > 2", "2")
    assert small["difference"] == pytest.approx(0, abs=1e-6)


def test_large_scale_skips_updates_in_fp16(tmp_path: Path) -> None:
    skipped = {row["arm"]: row["updates skipped"] for row in measure_here("precision", tmp_path)}
    assert skipped["fp16, first scale 2^32"] > skipped["fp16"] == skipped["fp32"] == 0


def test_utilization_of_gpt2() -> None:
    with torch.device("meta"):
        assert sum(each.numel() for each in GPT2.build_model().parameters()) == 124_439_808
    assert GPT2.count_model_flops() == 6 * (124_439_808 - 1024 * 768) + 12 * 12 * 768 * 1024
    clock = StepClock(torch.device("cpu"), 20, 5)
    clock.times = [0.0, 3.0]  # 15 steps of 0.2 s
    row = describe_speed("two", clock, 64, GPT2, make_setup(Path()), n_devices=2)
    assert row["tokens/s"] == pytest.approx(64 * 1024 / 0.2)
    assert row["MFU %"] == pytest.approx(100 * row["tokens/s"] * GPT2.count_model_flops() / 2e12)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989.4),
        ("NVIDIA H200 NVL", 835.5),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.5),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("Tesla V100-SXM2-16GB", None),
    ],
)
def test_peak_by_name_of_the_device(name: str, peak: float | None) -> None:
    assert find_peak_tflops(name) == peak


@pytest.mark.parametrize(
    ("function", "reason"), [("yield_then_raise", "ValueError: no second arm"), ("yield_then_die", "exit status -9")]
)
def test_rows_of_a_part_that_fails_are_kept(function: str, reason: str, tmp_path: Path) -> None:
    request = make_request(function, tmp_path)
    result = runner.run_part(Part("Broken", request.function, 300), request, 300)
    assert (result["status"], result["rows"]) == ("failed", [{"arm": "first", "tokens/s": 10.0}])
    assert result["reason"].startswith(reason)


def test_part_whose_time_is_up_is_killed(tmp_path: Path) -> None:
    request = make_request("yield_then_raise", tmp_path)
    result = runner.run_part(Part("Slow", request.function, 0.01), request, 0.01)
    assert (result["status"], result["rows"]) == ("time is up", [])
    assert not [each for each in psutil.process_iter(["cmdline"]) if str(tmp_path) in (each.info["cmdline"] or ())]


def test_parts_end_within_the_limit(tmp_path: Path) -> None:
    assert sum(part.limit_seconds for part in PARTS.values() if not part.is_distributed) <= MAX_SECONDS < 600
    request = Request("", "", "cpu", True, None, None, None)
    report = runner.run_parts(["gpt2", "fno"], request, tmp_path / "gpu.json", 0.0, ["python"])
    assert [result["status"] for result in report["parts"].values()] == ["not started: time is up"] * 2
    assert read_json(tmp_path / "gpu.json")["parts"] == report["parts"]


def run_command(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_full_sizes_need_a_gpu() -> None:
    done = run_command("--device", "cpu")
    assert (done.returncode, "add --toy" in done.stderr) == (2, True)


@pytest.mark.slow
def test_the_whole_command_at_toy_size(tmp_path: Path) -> None:
    to = tmp_path / "gpu.json"
    done = run_command("--toy", "--device", "cpu", "--peak-tflops", "1", "--to", str(to))
    found = json.loads(to.read_text())
    assert {name: result["status"] for name, result in found["parts"].items()} == dict.fromkeys(PARTS, "done")
    assert done.returncode == 0
    assert [row["arm"] for row in found["parts"]["ddp"]["rows"]] == ["one device", "2 devices"]
    assert [row["arm"] for row in found["parts"]["fsdp"]["rows"]] == ["one device", "2 devices"]
    assert [row["arm"] for row in found["parts"]["step_overhead"]["rows"]] == ["bare loop", "ours", "Trainer"]
    assert len(found["parts"]["gpt2_compiled"]["rows"]) == 5
    assert all(part.title in done.stdout for part in PARTS.values())
