"""The share of a training step that making its batch takes, for the small experiment of every system.

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

EXPERIMENTS = ("headlines", "gpt2_lora", "ltg_bert", "operator")
"""Document 2's is that of gpt2_lora, resumed."""


def time_steps(experiment: str, steps: int, cache_dir: str) -> list[tuple[float, float]]:
    """Of each step after the first: of making its batch, and of all of it."""
    cfg = compose_config([f"experiment={experiment}", "start=scratch", "device=cpu", f"cache_dir={cache_dir}"])
    settings, world = validate_config(cfg), ProcessGroup(torch.device("cpu"))
    parts = build_parts(cfg, settings, world, build_task(cfg, settings, world))
    task, state, plan = parts.task, parts.state, parts.plan
    trainer = Trainer(task, state, plan, world)
    state.train()
    taken = []
    for _ in range(steps + 1):
        began_at = time.perf_counter()
        batch = task.get_batch(state.examples, plan.batch_size)
        made_at = time.perf_counter()
        trainer.train_step(batch)
        taken.append((made_at - began_at, time.perf_counter() - began_at))
    return taken[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("experiments", nargs="*", default=EXPERIMENTS)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--cache-dir", help="to keep the tokenised data; by default it is made anew and thrown away")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for experiment in chosen.experiments:
            taken = time_steps(experiment, chosen.steps, chosen.cache_dir or folder)
            shares = [100 * batch / whole for batch, whole in taken]
            batch, whole = (1000 * statistics.median(column) for column in zip(*taken, strict=True))
            print(
                f"{experiment:10} {batch:7.3f} ms of {whole:7.1f} ms a step, "
                f"{statistics.median(shares):.2f}% ({min(shares):.2f} to {max(shares):.2f})"
            )


if __name__ == "__main__":
    main()
