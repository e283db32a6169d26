"""What the run or the sweep will take: hours and gigabytes, from steps that are really taken."""

import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import psutil
import torch

from harness.preflight.report import Finding
from harness.preflight.training_setup import TrainingSetup

STEPS, SECONDS, SLOW = 4, 1.5, 10.0
"""Measured after one to warm up: so many at most, and no more once SECONDS have passed; where that one took longer than
SLOW, it has to do."""
EVALUATED_IN = 16
CLOSE_TO_ALL = 0.9
"""Share of the machine's memory."""
GB = 1e9


def check(subject: TrainingSetup) -> Iterator[Finding]:
    """Seconds of a step and of an evaluation, memory at the batch that training takes."""
    if subject.step is None:
        yield Finding("not checked", "time and memory", "", "needs the step that training takes")
        return
    device = next(subject.model.parameters()).device
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = _measure_step_seconds(subject, device)
    yield _check_time(subject, seconds)
    yield _check_memory(subject, device)


def _measure_step_seconds(subject: TrainingSetup, device: torch.device) -> float:
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) <= STEPS and sum(taken) < SECONDS):
        if sum(taken) > SLOW:
            break
        batch = subject.batches[len(taken) % len(subject.batches)]
        parts = subject.micro_batches(batch) if subject.micro_batches else [batch]
        taken.append(_time_call(lambda part=parts[0]: subject.step(part), device))
    return len(parts) * median(taken[1:] or taken)


def _time_call(act: Callable[[], Any], device: torch.device) -> float:
    _synchronize_device(device)
    began_at = time.perf_counter()
    act()
    _synchronize_device(device)
    return time.perf_counter() - began_at


def _synchronize_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _check_time(subject: TrainingSetup, seconds: float) -> Finding:
    asked, told = subject.asked, f"{seconds:.3g} s a step"
    if asked.total_steps is None:
        return Finding("pass", "time", f"{told}; the run's length is not given")
    device = next(subject.model.parameters()).device
    steps = asked.total_steps - asked.steps_behind
    whole, parts = seconds * steps, [f"{steps:,} steps"]
    if asked.evals and subject.evaluate:
        part = _time_call(lambda: subject.evaluate(EVALUATED_IN), device)
        whole += asked.evals * part / subject.evaluated_share
        parts.append(f"{asked.evals} evaluations")
    told += f"; {describe_duration(whole)} for {' and '.join(parts)}"
    if asked.runs > 1:
        at_once = f", {asked.at_once} at once" if asked.at_once > 1 else ""
        told += (
            f"; {describe_duration(whole * asked.runs / asked.at_once)} for {asked.runs} runs{at_once}, none cut short"
        )
    return Finding("pass", "time", told)


def _check_memory(subject: TrainingSetup, device: torch.device) -> Finding:
    """Of the device where the model is; a processor's runs at once share what the machine has."""
    if device.type == "cuda":
        used, has = torch.cuda.max_memory_allocated(device), torch.cuda.get_device_properties(device).total_memory
        what, runs = f"at the peak on {torch.cuda.get_device_name(device)}", 1
    else:
        used, has = _peak_resident_bytes(), psutil.virtual_memory().total
        what, runs = "resident at the peak, this process whole", subject.asked.at_once
    told = f"{used / GB:.2g} GB {what}" + (f"; {runs * used / GB:.2g} GB for {runs} runs at once" if runs > 1 else "")
    told += f"; there are {has / GB:.3g} GB"
    if runs * used > CLOSE_TO_ALL * has:
        look_at = "batch.micro_batch_size, which changes memory and no result; fewer runs at once"
        return Finding("warn", "memory", told, f"at most {CLOSE_TO_ALL:.0%} of that", look_at)
    return Finding("pass", "memory", told)


def _peak_resident_bytes() -> int:
    """Bytes."""
    if sys.platform == "win32":
        return psutil.Process().memory_info().peak_wset
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def describe_duration(seconds: float) -> str:
    """In the unit that a person would say it in."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.2g} seconds" if seconds < 10 else f"{seconds:.0f} seconds"
