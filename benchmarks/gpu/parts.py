"""The parts of the measurement, with their time limits."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """A function that takes a Setup and yields rows, run in its own process, or in one for each device."""

    title: str
    function: str
    limit_seconds: float
    is_distributed: bool = False


PARTS = {
    "gpt2": Part("GPT-2 124M, bf16", "benchmarks.gpu.gpt2.measure_eager", 60),
    "gpt2_compiled": Part("GPT-2 124M, bf16, compiled", "benchmarks.gpu.gpt2.measure_compiled", 110),
    "ddp": Part("GPT-2 124M, parallel=ddp", "benchmarks.gpu.gpt2.measure_ddp", 40, is_distributed=True),
    "fsdp": Part("GPT-2 124M, parallel=fsdp", "benchmarks.gpu.gpt2.measure_fsdp", 40, is_distributed=True),
    "step_overhead": Part("Overhead of a step of 5 ms", "benchmarks.gpu.comparisons.measure_step_overhead", 50),
    "ltg_bert": Part("LTG-BERT base against BERT, bf16", "benchmarks.gpu.comparisons.measure_ltg_bert", 60),
    "precision": Part("Gradient scaler of fp16, 27M model", "benchmarks.gpu.limits.measure_precisions", 35),
    "out_of_memory": Part("Out of memory", "benchmarks.gpu.limits.measure_out_of_memory", 40),
    "checkpointing": Part("Activation checkpointing, GPT-2 124M", "benchmarks.gpu.gpt2.measure_checkpointing", 30),
    "fno": Part("Fourier neural operator, Darcy flow", "benchmarks.gpu.fields.measure_fno", 40),
    "headlines": Part("Headlines experiments, 938 steps", "benchmarks.gpu.headlines.measure_headlines", 150),
}
MAX_SECONDS = 590.0
"""Limit of all parts together; those of one GPU need less even if each takes all of its time."""
