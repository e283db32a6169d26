"""Shared by all parts: settings, devices with their peak speed, a clock of steps, peak memory, random tokens."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from benchmarks.memory import PeakMemory
from harness.core.distributed import ProcessGroup
from harness.data.tokens import TokenData, TokenRows

Row = dict[str, str | float]
"""One arm of a part: its name under "arm", and its figures by name and unit."""

PEAK_TFLOPS = {
    # dense bfloat16 of NVIDIA's data sheets; the first name that is part of the device's
    "B200": 2250.0, "H200 NVL": 835.5, "H200": 989.4, "H100 PCIe": 756.5, "H100 NVL": 835.5, "H100": 989.4,
    "A100": 312.0, "L40S": 362.0,
}  # fmt: skip
FORMULA = (
    "model flops utilization = tokens/s x (6 N + 12 layers x width x length) / peak of all devices, "
    "N: parameters without position embeddings"
)
"""Chowdhery et al., 2022 (PaLM), appendix B: nothing is taken off for the causal mask or for what is recomputed."""


@dataclass(frozen=True)
class Setup:
    """Settings of a part. `folder` is for what it writes."""

    processes: ProcessGroup
    folder: Path
    is_toy: bool
    peak_tflops: float | None
    titles: str | None = None
    titles_column: str | None = None

    @property
    def device(self) -> torch.device:
        return self.processes.device


def find_peak_tflops(device_name: str) -> float | None:
    """Return the peak of a device in TFLOP/s with dense bfloat16; None if it is unknown."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device_name), None)


def describe_devices(setup: Setup) -> Row:
    device, described = setup.device, {"name": setup.device.type, "threads": float(torch.get_num_threads())}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        described = {
            "name": properties.name,
            "memory GiB": properties.total_memory / 2**30,
            "multiprocessors": float(properties.multi_processor_count),
            "capability": f"{properties.major}.{properties.minor}",
        }
    peak = {} if setup.peak_tflops is None else {"peak TFLOP/s": setup.peak_tflops}
    return {**described, **peak, "processes": float(setup.processes.size)}


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that was sent to it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class StepClock:
    """Times training steps without the first `n_skipped`; waits for the device only there and at the end."""

    def __init__(self, device: torch.device, n_steps: int, n_skipped: int) -> None:
        self.device, self.n_steps, self.n_skipped = device, n_steps, n_skipped
        self.count, self.times = 0, []

    def tick(self) -> None:
        """Count a step that has ended."""
        self.count += 1
        if self.count in (self.n_skipped, self.n_steps):
            wait_for(self.device)
            self.times.append(time.perf_counter())

    @property
    def seconds_per_step(self) -> float:
        started_at, ended_at = self.times
        return (ended_at - started_at) / (self.n_steps - self.n_skipped)


@dataclass
class Peak:
    """Peak memory in GiB: allocated on a GPU; on a CPU, growth of the resident set."""

    gib: float = 0.0


@contextmanager
def measure_peak(device: torch.device) -> Iterator[Peak]:
    """Measure the peak memory in this context, which begins with what the caller still holds."""
    peak = Peak()
    release_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.gib = torch.cuda.max_memory_allocated(device) / 2**30
    else:
        with PeakMemory() as resident:
            yield peak
        peak.gib = (resident.highest - resident.base) / 2**10


def release_memory(device: torch.device) -> None:
    """Free what nobody holds, compiled code too."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def make_token_data(vocabulary: int, length: int, n_rows: int, n_words: int | None = None) -> TokenData:
    """Return random tokens, the first `n_words` of the vocabulary or all of it, as training and validation set."""
    generator = np.random.default_rng(0)
    stream = generator.integers(0, n_words or vocabulary, n_rows * length + 1)
    lengths = np.full(n_rows, length)
    rows = TokenRows(stream, None, length * np.arange(n_rows), lengths, lengths)
    return TokenData(
        rows, rows, vocab_size=vocabulary, eos_id=0, unigram_entropy=float(np.log(n_words or vocabulary)),
        val_scored_tokens=rows.n_scored, val_characters=rows.n_scored, val_bytes=rows.n_scored, digest="random",
        name="random tokens", source="random tokens", tokenizer_path=Path(), sequence_length=length,
        eval_batch_size=n_rows, shuffle=False, seed=0,
    )  # fmt: skip
