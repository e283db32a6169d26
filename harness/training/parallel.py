"""Train one model with several processes, by torch's DistributedDataParallel or fully_shard."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from harness.core.distributed import ProcessGroup
from harness.core.state import Optimizer
from harness.core.task import Task


class LossEngine(Protocol):
    """The forward passes of a step, whose backward passes add up the gradients of all processes.

    Every process makes the same number of passes in a step.
    """

    def compute_loss(self, micro_batch: Any) -> Tensor:
        """Return the summed loss of a micro-batch."""

    def accumulate(self, is_last: bool) -> AbstractContextManager[None]:
        """Return the context of the forward and backward pass of a micro-batch."""

    def complete_failed_step(self, reason: str) -> None:
        """Take part in what the other processes still send in this step, after this one has run out of memory.

        Raises:
            RuntimeError: If that is impossible.
        """


class Parallel(Protocol):
    """A way to train one model with several processes; one option of `parallel` in conf/."""

    def place_model(self, model: nn.Module, processes: ProcessGroup, autocast: torch.dtype | None) -> None:
        """Move a model from the CPU to the device of each process, with the weights of rank 0."""

    def check_optimizer(self, build: Callable[[nn.Module], Optimizer], processes: ProcessGroup) -> None:
        """Check that the optimizer that `build` returns for a model can train a placed one.

        Raises:
            ValueError: If it cannot.
        """

    def build_engine(self, task: Task, processes: ProcessGroup) -> LossEngine:
        """Return the engine that trains the model of `task`, which is placed."""


class DataParallel:
    """Each process holds the whole model; DistributedDataParallel adds up the gradients during backward."""

    def place_model(self, model: nn.Module, processes: ProcessGroup, autocast: torch.dtype | None) -> None:
        model.to(processes.device)
        processes.broadcast_model(model)

    def check_optimizer(self, build: Callable[[nn.Module], Optimizer], processes: ProcessGroup) -> None:
        """Accept any optimizer: each process makes the same updates."""

    def build_engine(self, task: Task, processes: ProcessGroup) -> LossEngine:
        return SingleProcessEngine(task) if processes.size == 1 else DataParallelEngine(task)


class SingleProcessEngine:
    """One process: the gradients of its backward passes are those of the step."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def compute_loss(self, micro_batch: Any) -> Tensor:
        return self.task.compute_loss(micro_batch).sum

    def accumulate(self, is_last: bool) -> AbstractContextManager[None]:
        return nullcontext()

    def complete_failed_step(self, reason: str) -> None:
        """Do nothing: no other process waits."""


class DataParallelEngine:
    """DistributedDataParallel around the loss of a task.

    Gradients are sent in buckets while backward still computes others, in the backward pass of the last micro-batch
    only. Parameters that no process used keep no gradient, as with one process.
    """

    def __init__(self, task: Task) -> None:
        self.sums = BucketSums()
        self.module = DistributedDataParallel(
            TaskLoss(task),
            init_sync=False,  # the weights are placed
            find_unused_parameters=True,
            gradient_as_bucket_view=True,
        )
        self.module.register_comm_hook(None, self.sums.add_up)

    def compute_loss(self, micro_batch: Any) -> Tensor:
        loss: Tensor = self.module(micro_batch)
        return loss

    def accumulate(self, is_last: bool) -> AbstractContextManager[None]:
        self.sums.n_sent = 0
        return nullcontext() if is_last else self.module.no_sync()

    def complete_failed_step(self, reason: str) -> None:
        """Send zeros for the buckets that backward has not reached, and reset the reducer.

        These are the messages with which torch's own Join stands in for a process without data. The methods are private
        in torch; tests/training/test_parallel.py fails if they change.
        """
        reducer: Any = self.module.reducer
        buckets = reducer._get_zeros_like_grad_buckets()
        if missing := buckets[self.sums.n_sent :]:
            for work in [reducer._run_comm_hook(bucket) for bucket in missing]:
                work.wait()
            self.module._match_unused_params_allreduce()
        self.module._update_process_group(self.module.process_group)  # the next forward pass starts afresh
        self.sums.n_sent = 0


class BucketSums:
    """Communication hook that adds up gradients; torch's own divides them by the number of processes."""

    def __init__(self) -> None:
        self.n_sent = 0  # buckets sent in this step

    def add_up(self, state: None, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        """Start to add up the gradients of a bucket over the processes."""
        self.n_sent += 1
        buffer = bucket.buffer()
        sent = torch.view_as_real(buffer) if buffer.is_complex() else buffer
        work = dist.all_reduce(sent, async_op=True)
        assert work is not None
        return work.get_future().then(lambda _: buffer)


class TaskLoss(nn.Module):
    """The loss of a task as a function of the model's trainable parameters.

    DistributedDataParallel sees the forward pass although the task calls the model. The model itself is no part of
    this module: its buffers would be sent in every forward pass, and its names would get a prefix.
    """

    def __init__(self, task: Task) -> None:
        super().__init__()
        trainable = [parameter for parameter in task.model.parameters() if parameter.requires_grad]
        # torch warns, past Python's filters, if each parameter is used in the first step
        self.trainable = nn.ParameterList([*trainable, nn.Parameter(trainable[0].new_zeros(1))])
        self.compute_loss: Callable[[Any], Any] = task.compute_loss

    def forward(self, micro_batch: Any) -> Tensor:
        loss: Tensor = self.compute_loss(micro_batch).sum
        return loss
