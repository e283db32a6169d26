"""Measure the fraction of a training step spent on making its batch, for the small experiment of each system.

python benchmarks/data_loading.py
"""

import argparse
import statistics
import tempfile
import time

import torch

from harness.config.compose import compose_config
from harness.config.validation import validate_config
from harness.core.distributed import ProcessGroup
from harness.run.build import build_parts, build_task
from harness.training.loop import Trainer

EXPERIMENTS = ("headlines", "gpt2_lora", "ltg_bert", "operator")  # gpt2_resume loads data like gpt2_lora


def time_steps(experiment: str, steps: int, cache_dir: str) -> list[tuple[float, float]]:
    """Return seconds for the batch and for the whole step, for each step after the first."""
    cfg = compose_config([f"experiment={experiment}", "start=scratch", "device=cpu", f"cache_dir={cache_dir}"])
    settings, processes = validate_config(cfg), ProcessGroup(torch.device("cpu"))
    parts = build_parts(cfg, settings, processes, build_task(cfg, settings, processes))
    task, state, plan = parts.task, parts.state, parts.plan
    trainer = Trainer(task, state, plan, processes)
    state.train()
    taken = []
    for _ in range(steps + 1):
        started_at = time.perf_counter()
        batch = task.get_batch(state.examples, plan.batch_size)
        made_at = time.perf_counter()
        trainer.train_step(batch)
        taken.append((made_at - started_at, time.perf_counter() - started_at))
    return taken[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cache-dir", help="keep the tokenised data here (default: a temporary folder)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for experiment in args.experiments:
            taken = time_steps(experiment, args.steps, args.cache_dir or folder)
            shares = [100 * batch / whole for batch, whole in taken]
            batch, whole = (1000 * statistics.median(column) for column in zip(*taken, strict=True))
            print(
                f"{experiment:10} {batch:7.3f} ms of {whole:7.1f} ms a step, "
                f"{statistics.median(shares):.2f}% ({min(shares):.2f} to {max(shares):.2f})"
            )


if __name__ == "__main__":
    main()
