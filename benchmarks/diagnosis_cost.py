"""Measure the cost of diagnosis during training, as a share of steps of 10 ms.

Measured are the observer, the gradient norms by layer at evaluations, and saving the generators for a repeated step.

    python benchmarks/diagnosis_cost.py
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from harness.core.effective_settings import EffectiveSettings
from harness.core.events import EvalEnd, Event, RunEnd, RunStart, StepEnd
from harness.core.seeding import get_torch_rng_state
from harness.core.task import Metric
from harness.models.gpt import GPT
from harness.observers.diagnosis import DiagnosisObserver
from harness.training.grad_norms import layer_grad_norms

STEP_SECONDS = 0.010
LAYERS = 12


def sample_events(folder: Path, steps: int, evals: int) -> Iterator[Event]:
    """Yield the events of a healthy run with the gradient norms of twelve layers."""
    rng = random.Random(0)
    effective = EffectiveSettings("cpu", 1, 1, 1, 1, steps, steps, 0, evals, 8, 8, 1, 1.0, "float32", "AdamW", {})
    yield RunStart("bench", folder, steps, 10, {}, effective, {}, {"ln_vocabulary": 9.0, "unigram_entropy": 7.0}, {})
    best = float("inf")
    for step in range(1, steps + 1):
        loss = 3 + 6 * (1 + step / 50) ** -0.5 + rng.gauss(0, 0.05)
        yield StepEnd(step, step * 1000, loss, 1e-3, rng.uniform(0.2, 0.8), False, 0, STEP_SECONDS, 1000, step * 8)
        if step % (steps // evals) == 0:
            norms = {f"blocks.{layer}": rng.uniform(0.1, 0.3) for layer in range(LAYERS)}
            best = min(best, loss)
            metrics = {"loss": Metric(loss, "nats/token", 0.01)}
            yield EvalEnd(step, step * 1000, metrics, best, step, True, 0, step / steps, 1.0, norms)
    yield RunEnd("completed", "", steps, steps * 1000, steps * STEP_SECONDS, best, steps)


def median_seconds(work: Callable[[], None], times: int) -> float:
    """Return the processor time of one call, the median of five, which other work on the machine hardly affects."""
    samples = []
    for _ in range(5):
        started_at = time.process_time()
        for _ in range(times):
            work()
        samples.append((time.process_time() - started_at) / times)
    return statistics.median(samples)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--evals", type=int, default=25)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        events = list(sample_events(Path(name), args.steps, args.evals))

        def observe() -> None:
            observer = DiagnosisObserver()
            for event in events:
                observer(event)

        observer_seconds = median_seconds(observe, 1) / args.steps
    model = GPT(vocab_size=16000, positions=128, layers=6, width=512, heads=8, dropout=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    norm_seconds = median_seconds(lambda: layer_grad_norms(model.named_parameters(), 1.0), 20)
    generator_seconds = median_seconds(get_torch_rng_state, 1000)
    parts = {
        "observer, per step": observer_seconds,
        "norms by layer of 27M parameters, per evaluation": norm_seconds,
        "norms, per step": norm_seconds * args.evals / args.steps,
        "generators, per step": generator_seconds,
    }
    print(f"{args.steps} steps, {args.evals} evaluations, one thread")
    for part, spent in parts.items():
        print(f"{part:50} {spent * 1e6:9.1f} us   {spent / STEP_SECONDS:8.3%} of a 10 ms step")


if __name__ == "__main__":
    main()
