"""Estimate time and memory of the run or the sweep from measured steps."""

import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import psutil
import torch

from harness.core.formatting import format_duration
from harness.preflight.report import Finding, passed, skipped, warned
from harness.preflight.training_setup import TrainingSetup

MAX_STEPS, MAX_SECONDS = 4, 1.5  # measured after one step to warm up
SLOW_SECONDS = 10.0  # a first step that takes longer is the only one
EVAL_BATCH_SIZE = 16
MEMORY_LIMIT = 0.9  # share of the available memory
GB = 1e9
PASSES, MIN_SECONDS = 15, 1.0  # measured on six of the shipped experiments
SECONDS_PER_TOKEN, MAX_TOKENS = 1e-5, 10_000_000  # of reading and checking the text


def estimate_seconds(setup: TrainingSetup) -> float:
    """Estimate how long all checks take, within a factor of about two, from one forward and backward pass."""
    device = next(setup.model.parameters()).device
    with setup.preserved_state():

        def train_pass() -> None:
            setup.compute_loss(setup.batches[0]).backward()

        seconds = min(_time_call(train_pass, device) for _ in range(2))  # the first one starts up
    tokens = 0 if setup.data.token_stream is None else len(setup.data.token_stream)
    return MIN_SECONDS + PASSES * seconds + SECONDS_PER_TOKEN * min(tokens, MAX_TOKENS)


def check(setup: TrainingSetup) -> Iterator[Finding]:
    """Measure steps, evaluations and memory at the batch size of training."""
    if setup.train_step is None:
        yield skipped("time and memory", "needs `train_step`")
        return
    device = next(setup.model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    yield _check_time(setup, _measure_step_seconds(setup, partial(setup.run_user_code, "train_step"), device), device)
    yield _check_memory(setup, device)


def _measure_step_seconds(setup: TrainingSetup, train_step: Callable[[Any], Any], device: torch.device) -> float:
    seconds: list[float] = []
    while len(seconds) < 2 or (len(seconds) <= MAX_STEPS and sum(seconds) < MAX_SECONDS):
        if sum(seconds) > SLOW_SECONDS:
            break
        batch = setup.batches[len(seconds) % len(setup.batches)]
        parts = setup.split_batch(batch) if setup.split_batch else [batch]
        seconds.append(_time_call(partial(train_step, parts[0]), device))
    return len(parts) * median(seconds[1:] or seconds)


def _time_call(function: Callable[[], Any], device: torch.device) -> float:
    synchronize = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None
    synchronize()
    started_at = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - started_at


def _check_time(setup: TrainingSetup, step_seconds: float, device: torch.device) -> Finding:
    requested, text = setup.requested, f"{step_seconds:.3g} s/step"
    if requested.total_steps is None:
        return passed("time", f"{text}; the length of the run is unknown")
    steps = requested.total_steps - requested.completed_steps
    run_seconds, parts = step_seconds * steps, [f"{steps:,} steps"]
    if requested.evals and setup.evaluate:
        eval_seconds = _time_call(partial(setup.run_evaluation, EVAL_BATCH_SIZE), device) / setup.eval_fraction
        run_seconds += requested.evals * eval_seconds
        parts.append(f"{requested.evals} evaluations")
    text += f"; {format_duration(run_seconds)} for {' and '.join(parts)}"
    if requested.n_runs > 1:
        sweep_seconds = run_seconds * requested.n_runs / requested.n_parallel
        parallel = f", {requested.n_parallel} in parallel" if requested.n_parallel > 1 else ""
        text += f"; {format_duration(sweep_seconds)} for {requested.n_runs} runs{parallel}, without pruning"
    return passed("time", text)


def _check_memory(setup: TrainingSetup, device: torch.device) -> Finding:
    """Report the memory of the model's device. Parallel runs on a CPU share the machine's memory."""
    if device.type == "cuda":
        used, available = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        what, runs = f"peak on {torch.cuda.get_device_name(device)}", 1
    else:
        used, available = _peak_resident_bytes(), psutil.virtual_memory().total
        what, runs = "peak resident memory of this process", setup.requested.n_parallel
    text = f"{used / GB:.2g} GB {what}"
    text += f"; {runs * used / GB:.2g} GB for {runs} parallel runs" if runs > 1 else ""
    text += f"; {available / GB:.3g} GB available"
    if runs * used > MEMORY_LIMIT * available:
        hint = "Lower batch.micro_batch_size, which does not change results, or run fewer in parallel"
        return warned("memory", text, f"at most {MEMORY_LIMIT:.0%} of the available memory", hint)
    return passed("memory", text)


def _peak_resident_bytes() -> int:
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS reports bytes, Linux kilobytes
