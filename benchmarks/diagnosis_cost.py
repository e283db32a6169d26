"""What diagnosis takes of a run: the observer with all its diagnoses, the gradients' norms by layer at evaluations, and
keeping the generators for a step that may be taken again, as a share of steps of 10 ms.

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


def told(folder: Path, steps: int, evals: int) -> Iterator[Event]:
    """A healthy run: a loss that falls with noise, evaluations, norms of twelve layers."""
    chance = random.Random(0)
    effective = EffectiveSettings("cpu", 1, 1, 1, 1, steps, steps, 0, evals, 8, 8, 1, 1.0, "float32", "AdamW", {})
    yield RunStart("bench", folder, steps, 10, {}, effective, {}, {"ln_vocabulary": 9.0, "unigram_entropy": 7.0}, {})
    best = float("inf")
    for step in range(1, steps + 1):
        loss = 3 + 6 * (1 + step / 50) ** -0.5 + chance.gauss(0, 0.05)
        yield StepEnd(step, step * 1000, loss, 1e-3, chance.uniform(0.2, 0.8), False, 0, STEP_SECONDS, 1000, step * 8)
        if step % (steps // evals) == 0:
            norms = {f"blocks.{layer}": chance.uniform(0.1, 0.3) for layer in range(LAYERS)}
            best = min(best, loss)
            metrics = {"loss": Metric(loss, "nats/token", 0.01)}
            yield EvalEnd(step, step * 1000, metrics, best, step, True, 0, step / steps, 1.0, norms)
    yield RunEnd("completed", "", steps, steps * 1000, steps * STEP_SECONDS, best, steps)


def seconds(work: Callable[[], None], times: int) -> float:
    """Processor seconds of one call, which other work on the machine hardly moves; the median of five."""
    found = []
    for _ in range(5):
        began_at = time.process_time()
        for _ in range(times):
            work()
        found.append((time.process_time() - began_at) / times)
    return statistics.median(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--evals", type=int, default=25)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        events = list(told(Path(name), chosen.steps, chosen.evals))

        def observe() -> None:
            observer = DiagnosisObserver()
            for event in events:
                observer(event)

        of_observer = seconds(observe, 1) / chosen.steps
    model = GPT(vocab_size=16000, positions=128, layers=6, width=512, heads=8, dropout=0.0)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    of_norms = seconds(lambda: layer_grad_norms(model.named_parameters(), 1.0), 20)
    of_generators = seconds(get_torch_rng_state, 1000)
    parts = {
        "the observer, a step": of_observer,
        "norms by layer of 27M parameters, an evaluation": of_norms,
        "the same, spread over the steps between two": of_norms * chosen.evals / chosen.steps,
        "generators, a step": of_generators,
    }
    print(f"{chosen.steps} steps, {chosen.evals} evaluations, one thread")
    for part, spent in parts.items():
        print(f"{part:50} {spent * 1e6:9.1f} us   {spent / STEP_SECONDS:8.3%} of a 10 ms step")


if __name__ == "__main__":
    main()
