"""The processes of one run: what they add up, agree on and share. A single process pays nothing."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


class ProcessGroup:
    """`size` processes that hold the same weights; this one is `rank`. Rank 0 writes and decides."""

    def __init__(self, device: torch.device, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def shard(self, pieces: Iterable[T]) -> Iterator[T]:
        """This process's pieces of what every process has whole."""
        return islice(pieces, self.rank, None, self.size)

    def all_reduce(self, numbers: list[float]) -> list[float]:
        """Each number added up over the processes, in float64 where the device has it."""
        if self.size == 1:
            return numbers
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.tensor(numbers, dtype=dtype, device=self.device)
        dist.all_reduce(total)
        return total.tolist()

    def all_reduce_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add up the gradients in one message a data type; a parameter unused here counts as zero."""
        if self.size == 1:
            return
        by_dtype: dict[torch.dtype, list[Tensor]] = {}
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            by_dtype.setdefault(parameter.dtype, []).append(parameter.grad)
        for gradients in by_dtype.values():
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            dist.all_reduce(torch.view_as_real(flat) if flat.is_complex() else flat)
            for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(part.view_as(gradient))

    def all_gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks, everywhere."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def broadcast(self, value: T) -> T:
        """Rank 0's value, everywhere."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def run_main_first(self, make: Callable[[], T]) -> T:
        """What `make` gives, on rank 0 before the others, so that they find its files; its error is everyone's."""
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
        return made if self.is_main else make()

    def broadcast_model(self, model: nn.Module) -> None:
        """Rank 0's parameters and buffers, everywhere: one model, whatever each process has drawn."""
        if self.size == 1:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            data = tensor.data
            dist.broadcast(torch.view_as_real(data) if data.is_complex() else data, src=0)


def join_process_group(device_type: str) -> ProcessGroup:
    """The world `torchrun` describes in the environment (gloo on CPU, nccl on CUDA), or one process."""
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if size > 1 and device_type == "mps":
        raise ValueError("mps takes one process; use device=cpu or start without torchrun")
    if device_type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(f"process {local_rank} has no GPU: there are {torch.cuda.device_count()}; start as many")
        torch.cuda.set_device(local_rank)
        device = torch.device("cuda", local_rank)
    else:
        device = torch.device(device_type)
    if size > 1 and not dist.is_initialized():
        # Rank 0 may tokenise for a long time while the others wait.
        dist.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=timedelta(hours=2))
    return ProcessGroup(device, rank, size)


def leave_process_group() -> None:
    """Go together: a process whose peers are still at work may die of their closed connections."""
    if dist.is_initialized():
        with suppress(RuntimeError):  # a peer that has died is waited for no longer
            dist.barrier()
        dist.destroy_process_group()


def select_device(kind: str) -> str:
    """`kind`, or the best there is for "auto"; ValueError for one this machine has not."""
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if kind == "auto":
        return next(name for name, is_there in present.items() if is_there)
    if kind not in present:
        raise ValueError(f"{kind!r} is no device; choose auto, {', '.join(present)}")
    if not present[kind]:
        built = "this torch is a CPU build" if torch.version.cuda is None else "no such device is visible"
        raise ValueError(f"{kind} was asked for, and there is none here ({built}); use device=cpu or device=auto")
    return kind


@contextmanager
def use_cpu_threads(count: int | None) -> Iterator[None]:
    """Give torch `count` CPU threads, where it is set, and take them back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM ask the loop to stop after the step under way; a second SIGINT stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
