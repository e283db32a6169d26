"""Process groups and devices: what the processes of one run share. A single process pays nothing."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import nn

T = TypeVar("T")


class ProcessGroup:
    """The processes of a run, which hold the same weights. Rank 0 writes files and decides.

    Wraps torch's default process group. With one process every method is local.
    """

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def shard(self, items: Iterable[T]) -> Iterator[T]:
        """Yield every `size`-th item, starting at this rank."""
        return islice(items, self.rank, None, self.size)

    def all_reduce(self, numbers: list[float]) -> list[float]:
        """Sum each number over the processes, in float64 if the device supports it."""
        if self.size == 1:
            return numbers
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(numbers, dtype=dtype, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all ranks, in rank order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def run_main_first(self, make: Callable[[], T]) -> T:
        """Call `make` on rank 0 and then on the others, which find its files. An error on rank 0 is raised by all."""
        if self.size == 1:
            return make()
        made, error = None, None
        if self.is_main:
            try:
                made = make()
            except Exception as raised:
                error = raised
        error = self.broadcast(error)
        if error is not None:
            raise error
        return made if self.is_main else make()  # type: ignore[return-value]  # without an error, rank 0 has made it

    def broadcast_model(self, model: nn.Module) -> None:
        """Copy parameters and buffers from rank 0, since each process may have drawn different initial weights.

        The model may be on the CPU, if it does not fit the device that the processes communicate with.
        """
        if self.size == 1:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            on_device = tensor.data.to(self.device)
            dist.broadcast(torch.view_as_real(on_device) if on_device.is_complex() else on_device, src=0)
            tensor.data.copy_(on_device)


def is_true_anywhere(flag: bool) -> bool:
    """Return whether `flag` is true in any process of torch's default group, which all have to ask."""
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = torch.tensor([float(flag)], device=device)
    dist.all_reduce(total)
    return bool(total.item())


def join_process_group(device_type: str) -> ProcessGroup:
    """Join the group that `torchrun` describes in the environment (gloo on CPU, nccl on CUDA), or use one process.

    Raises:
        ValueError: If this process has no GPU, or for several processes on MPS.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if size > 1 and device_type == "mps":
        raise ValueError("mps supports one process only; use device=cpu or start without torchrun")
    if device_type == "cuda":
        n_gpus = torch.cuda.device_count()
        if local_rank >= n_gpus:
            raise ValueError(f"process {local_rank} has no GPU; start at most {n_gpus} processes on this machine")
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device(device_type)
    if size > 1 and not dist.is_initialized():
        # Rank 0 may tokenize for a long time while the others wait.
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return ProcessGroup(device, rank, size)


def leave_process_group() -> None:
    """Wait for the other processes, then leave: closing early could crash peers that still communicate."""
    if dist.is_initialized():
        with suppress(RuntimeError):  # do not wait for a peer that has died
            dist.barrier()
        dist.destroy_process_group()


def abandon_process_group() -> None:
    """Leave without waiting, after an error of this process; the others fail where they wait for it."""
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def select_device(kind: str) -> str:
    """Return `kind`, or the best available device type for "auto".

    Raises:
        ValueError: If `kind` is unknown or not available on this machine.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if kind not in available:
        raise ValueError(f"{kind!r} must be one of auto, {', '.join(available)}")
    if not available[kind]:
        reason = "this torch is a CPU build" if torch.version.cuda is None else "no such device is visible"
        raise ValueError(f"{kind} is not available ({reason}); use device=cpu or device=auto")
    return kind


@contextmanager
def use_cpu_threads(count: int | None) -> Iterator[None]:
    """Let torch use `count` CPU threads (None: no change) and restore the previous number on exit."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
