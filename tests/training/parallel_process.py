"""`python -m tests.training.parallel_process PREFIX`, once per rank: train models that are hard for several processes.

Each rank writes the results of all cases to PREFIX.RANK.
"""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.distributed import ProcessGroup, join_process_group, leave_process_group
from harness.core.events import EvalEnd, Event, OutOfMemory, StepEnd
from harness.core.seeding import seed_everything
from harness.core.sharding import gather_state_dict
from harness.core.task import Loss
from harness.training import policies
from harness.training.fully_shard import FullyShard
from harness.training.loop import Trainer
from harness.training.parallel import DataParallel
from tests.toy_task import Rows, ToyTask, toy_plan, toy_state


class ExhaustedBackward(torch.autograd.Function):
    """Pass values on, but have no memory for the gradients of more than `limit` rows."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, limit: float) -> Tensor:
        ctx.limit = limit
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        if len(gradient) > ctx.limit:
            raise torch.OutOfMemoryError("no memory in backward")
        return gradient, None


class LimitedMemory(nn.Module):
    """Two layers, whose gradients are sent in two messages; memory may run out after the first one."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        self.first, self.hidden, self.last, self.limit = (
            nn.Linear(3, 512),
            nn.Linear(512, 512),
            nn.Linear(512, 1),
            limit,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        values = ExhaustedBackward.apply(self.first(inputs).tanh(), self.limit)
        return self.last(self.hidden(values).tanh())


class TiedAndUnused(nn.Module):
    """A weight that two layers share, a frozen one, a complex one, a buffer, and one that is never used."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 16), nn.Linear(16, 16), nn.Linear(16, 1)
        self.third = nn.Linear(16, 16)
        self.third.weight = self.second.weight
        self.first.bias.requires_grad_(False)
        self.gain = nn.Parameter(torch.randn(16, dtype=torch.complex64))
        self.unused = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        values = self.third(self.second(self.first(inputs).tanh()).tanh())
        return self.last((values * self.gain).real)


class OneSided(nn.Module):
    """A layer that only the first examples of the data use, and therefore only one process."""

    def __init__(self) -> None:
        super().__init__()
        self.common, self.rare = nn.Linear(3, 1), nn.Linear(3, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        values = self.common(inputs).sin()
        return values + self.rare(inputs) if (inputs == FIRST).all(-1).any() else values


class Layers(nn.Module):
    """Layers of which each is sharded apart, except for one that shares its weight; small tensors leave parts empty."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 5), nn.Linear(5, 1)
        self.layers = nn.ModuleList(nn.Linear(5, 5) for _ in range(4))
        self.layers[2].weight = self.layers[1].weight
        self.layers[0].bias.requires_grad_(False)
        self.layers[0].weight.requires_grad_(False)
        self.unused = nn.Parameter(torch.ones(4))
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls += 1
        values = self.first(inputs)
        for layer in self.layers:
            values = values + layer(values).tanh()
        return self.last(values)


FIRST = ToyTask().train.inputs[0, 0]


def make_task(model: Callable[[], nn.Module] | None = None) -> ToyTask:
    """Return the toy task with another model."""
    task = ToyTask()
    if model:
        torch.manual_seed(0)
        task.model = model()
    return task


def train(
    processes: ProcessGroup,
    task: ToyTask,
    *,
    parallel: Any = None,
    lr: float = 0.05,
    scale: float | None = None,
    **plan: Any,
) -> dict[str, Any]:
    """Train; return the losses, gradient norms, validation losses, final weights and micro-batches that did not fit."""
    events = list[Event]()
    seed_everything(0)
    shrink = [policies.shrink_when_out_of_memory]
    parallel = parallel or DataParallel()
    parallel.place_model(task.model, processes, None)
    state, plan = toy_state(task, lr=lr, scale=scale), {"total_steps": 6, "eval_steps": frozenset({3, 6}), **plan}
    trainer = Trainer(task, state, toy_plan(**plan), processes, parallel=parallel, policies=shrink, emit=events.append)
    trainer.train()
    steps = [event for event in events if isinstance(event, StepEnd)]
    return {
        "losses": [event.loss for event in steps],
        "grad_norms": [event.grad_norm for event in steps],
        "val_losses": [event.val_loss for event in events if isinstance(event, EvalEnd)],
        "sizes": [event.micro_batch_size for event in events if isinstance(event, OutOfMemory)],
        "weights": {
            name: (torch.view_as_real(tensor) if tensor.is_complex() else tensor).flatten()[:5].tolist()
            for name, tensor in gather_state_dict(task.model, is_kept=True).items()
        },
    }


class FullForward(ToyTask):
    """A task that has no memory for the forward pass of more than 2 rows on the last of several processes."""

    limit = math.inf

    def compute_loss(self, batch: Rows) -> Loss:
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("no memory in forward")
        return super().compute_loss(batch)


def run_cases(processes: ProcessGroup) -> dict[str, dict[str, Any]]:
    """Return the result of each case by its name."""
    limit = 2 if processes.rank == 1 else math.inf
    exhausted = FullForward()
    exhausted.limit = limit
    micro = {"micro_batch_size": 16 // processes.size}
    return {
        "ragged counts": train(processes, make_task(), **micro),
        "accumulation": train(processes, make_task(), micro_batch_size=3),
        "more micro-batches on one process": train(processes, make_task(), batch_size=9, micro_batch_size=2),
        "no example for a process": train(processes, make_task(), batch_size=1, micro_batch_size=1),
        "clipping": train(processes, make_task(), grad_clip=0.1, **micro),
        "gradient scaler": train(processes, make_task(), scale=2.0**8, **micro),
        "tied, frozen, complex and unused": train(processes, make_task(TiedAndUnused), **micro),
        "used by one process": train(processes, make_task(OneSided), micro_batch_size=2),
        "no memory in forward": train(processes, exhausted, **micro),
        "no memory in backward": train(processes, make_task(lambda: LimitedMemory(limit)), lr=1e-3, **micro),
        "no memory in backward of a later micro-batch": train(
            processes, make_task(lambda: LimitedMemory(limit)), lr=1e-3, batch_size=15, micro_batch_size=3
        ),
    }


def run_sharded_cases(processes: ProcessGroup) -> dict[str, dict[str, Any]]:
    """Return the results with sharded weights; alone, those of one process with whole weights."""
    micro, parallel = {"micro_batch_size": 16 // processes.size}, FullyShard()
    return {
        "layers": train(processes, make_task(Layers), parallel=parallel, **micro),
        "accumulation": train(processes, make_task(Layers), parallel=parallel, micro_batch_size=3),
        "more micro-batches on one process": train(
            processes, make_task(Layers), parallel=parallel, batch_size=9, micro_batch_size=2
        ),
        "no example for a process": train(
            processes, make_task(Layers), parallel=parallel, batch_size=1, micro_batch_size=1
        ),
        "clipping": train(processes, make_task(Layers), parallel=parallel, grad_clip=0.1, **micro),
    }


if __name__ == "__main__":
    processes = join_process_group("cpu")
    results = {"ddp": run_cases(processes), "fsdp": run_sharded_cases(processes)}
    Path(f"{sys.argv[1]}.{processes.rank}").write_text(json.dumps(results))
    leave_process_group()
