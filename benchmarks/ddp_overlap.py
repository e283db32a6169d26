"""A step of two CPU processes: gradients sent by DistributedDataParallel during backward, against one sum after it.

python benchmarks/ddp_overlap.py
"""

import argparse
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from harness.core.distributed import ProcessGroup, join_process_group, leave_process_group
from harness.core.task import Loss
from harness.models.gpt import GPT
from harness.training.parallel import DataParallel

VOCABULARY, LENGTH = 512, 64


class TokenTask:
    """Next-token prediction on random tokens: what the engine needs of a task."""

    def __init__(self, width: int, layers: int) -> None:
        torch.manual_seed(0)
        self.model: nn.Module = GPT(
            vocab_size=VOCABULARY, positions=LENGTH, layers=layers, width=width, heads=4, dropout=0.0
        )

    def compute_loss(self, batch: Tensor) -> Loss:
        logits = self.model(batch[:, :-1]).logits
        return Loss(F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="sum"), batch.numel())


def sum_gradients(model: nn.Module) -> None:
    """Sum all gradients in one message, as our loop did before it used DistributedDataParallel."""
    gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat)
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def make_steps(processes: ProcessGroup, width: int, layers: int, batch: Tensor) -> dict[str, Callable[[], None]]:
    """Return a step of each arm, with its own model."""
    overlapped, summed = TokenTask(width, layers), TokenTask(width, layers)
    any_task: Any = overlapped
    engine = DataParallel().build_engine(any_task, processes)
    optimizers = [torch.optim.AdamW(task.model.parameters(), fused=True) for task in (overlapped, summed)]

    def step_overlapped() -> None:
        optimizers[0].zero_grad()
        with engine.accumulate(is_last=True):
            (engine.compute_loss(batch) / batch.numel()).backward()
        optimizers[0].step()

    def step_summed() -> None:
        optimizers[1].zero_grad()
        (summed.compute_loss(batch).sum / batch.numel()).backward()
        sum_gradients(summed.model)
        optimizers[1].step()

    return {"overlap": step_overlapped, "sum": step_summed}


def measure(args: argparse.Namespace) -> None:
    """Time both arms in turn in this process; rank 0 prints the result."""
    torch.set_num_threads(1)
    processes = join_process_group("cpu")
    generator = torch.Generator().manual_seed(processes.rank)
    batch = torch.randint(VOCABULARY, (args.batch, LENGTH + 1), generator=generator)
    steps = make_steps(processes, args.width, args.layers, batch)
    seconds: dict[str, list[float]] = {arm: [] for arm in steps}
    for round_number in range(args.rounds + 1):
        for arm, step in steps.items():
            dist.barrier()
            started_at = time.perf_counter()
            for _ in range(args.steps):
                step()
            if round_number:  # the first round allocates
                seconds[arm].append((time.perf_counter() - started_at) / args.steps)
    if processes.is_main:
        ratios = [one / other for one, other in zip(seconds["overlap"], seconds["sum"], strict=True)]
        for arm, values in seconds.items():
            print(f"{arm:8} {1000 * statistics.median(values):7.1f} ms/step")
        print(f"overlap / sum: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    leave_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if "RANK" in os.environ:
        measure(args)
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    group = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    group["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, *sys.argv]
    ranks = [subprocess.Popen(command, env={**group, "RANK": str(rank)}) for rank in range(2)]
    sys.exit(max(rank.wait() for rank in ranks))


if __name__ == "__main__":
    main()
