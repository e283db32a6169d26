"""Train a model that does not fit one device: each process holds a part of its parameters, gradients and moments."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import Shard, distribute_tensor

from harness.core.distributed import ProcessGroup
from harness.core.sharding import shard_like, to_whole
from harness.core.state import Optimizer
from harness.core.task import Task
from harness.training.parallel import DataParallel, LossEngine, SingleProcessEngine

TOLERANCE = 1e-3
"""Largest difference between the updates of a sharded parameter and a whole one, as a share of the update."""


class FullyShard:
    """torch's fully_shard: each layer gathers its parameters when it runs, and gradients are sent back in parts.

    Layers are the modules in the outermost `nn.ModuleList`s of the model. What is outside of them, such as embeddings
    and the head, is gathered together.
    """

    def place_model(self, model: nn.Module, processes: ProcessGroup, autocast: torch.dtype | None) -> None:
        """Shard a model.

        Raises:
            ValueError: If it, or the precision, cannot be sharded.
        """
        if processes.size == 1:
            return DataParallel().place_model(model, processes, autocast)
        if autocast is torch.float16:
            raise ValueError("fully_shard has no gradient scaler for float16; use precision=bf16 or parallel=ddp")
        names = [name for name, parameter in model.named_parameters() if parameter.is_complex()]
        if names:
            raise ValueError(f"fully_shard cannot add up complex gradients ({', '.join(names)}); use parallel=ddp")
        processes.broadcast_model(model)
        shard_model(model, init_device_mesh(processes.device.type, (processes.size,)), autocast)

    def check_optimizer(self, build: Callable[[nn.Module], Optimizer], processes: ProcessGroup) -> None:
        """Compare updates of a small sharded model with those of the same model whole.

        Raises:
            ValueError: If the optimizer fails on sharded parameters, or updates them otherwise.
        """
        if processes.size == 1:
            return
        mesh = init_device_mesh(processes.device.type, (processes.size,))
        models = [_make_small_model(processes.device), _make_small_model(processes.device, mesh)]
        before = [parameter.detach().clone() for parameter in models[0].parameters()]
        kind = "+".join(type(part).__name__ for part in build(models[0]).parts)
        try:
            whole, sharded = (_update(model, build(model)) for model in models)
        except Exception as error:  # it may come from any operation of any optimizer
            problem = str(error).partition("\n")[0] or type(error).__name__
        else:
            updates = zip(before, whole, sharded, strict=True)
            difference = max(((other - one).norm() / (one - old).norm()).item() for old, one, other in updates)
            if difference <= TOLERANCE:
                return
            problem = f"its updates would differ from those of one process by {difference:.2%}"
        raise ValueError(
            f"{kind} cannot train sharded parameters: {problem}; choose another one, such as adamw, or parallel=ddp"
        )

    def build_engine(self, task: Task, processes: ProcessGroup) -> LossEngine:
        return SingleProcessEngine(task) if processes.size == 1 else FullyShardedEngine(task)


class FullyShardedEngine(SingleProcessEngine):
    """The model adds up the gradients itself, after each micro-batch, so that a process keeps only its part of them."""

    def complete_failed_step(self, reason: str) -> None:
        """Fail: the other processes wait for parameters in the middle of a pass, and cannot repeat it."""
        raise RuntimeError(f"{reason}; with parallel=fsdp, choose a smaller batch.micro_batch_size")


def _make_small_model(device: torch.device, mesh: DeviceMesh | None = None) -> nn.Module:
    """Return an embedding, a matrix and a vector, too small to round updates; sharded, if a mesh is given."""
    model = nn.Sequential(nn.Embedding(7, 48), nn.Linear(48, 32)).to(device)
    generator = torch.Generator().manual_seed(0)
    for module in model:
        for name, parameter in list(module.named_parameters()):
            values = 1e-3 * torch.randn(parameter.shape, generator=generator).to(device)
            placed = values if mesh is None else distribute_tensor(values, mesh, [Shard(0)], src_data_rank=None)
            setattr(module, name, nn.Parameter(placed))
    return model


def _update(model: nn.Module, optimizer: Optimizer, steps: int = 3) -> list[torch.Tensor]:
    """Return the whole parameters after some steps with given gradients."""
    generator = torch.Generator().manual_seed(1)
    optimizer.train()
    for _ in range(steps):
        for parameter in model.parameters():
            gradient = torch.randn(parameter.shape, generator=generator)
            parameter.grad = shard_like(gradient.to(parameter.device), parameter)
        for part in optimizer.parts:
            part.step()
    optimizer.eval()
    return [to_whole(parameter.detach()) for parameter in model.parameters()]


def shard_model(model: nn.Module, mesh: DeviceMesh, autocast: torch.dtype | None = None) -> None:
    """Shard the parameters of a model in place; only one layer at a time is moved to a device whole."""
    lower: dict[str, Any] = {"param_dtype": autocast, "reduce_dtype": torch.float32} if autocast else {}
    for module in (*_find_layers(model), model):
        sharded = fully_shard(
            module,
            mesh=mesh,
            reshard_after_forward=True,  # of the whole model too: its parameters are read after evaluations
            mp_policy=MixedPrecisionPolicy(**lower),
        )
        sharded.set_gradient_divide_factor(1.0)  # the losses are divided by the count of the whole step
        sharded.set_force_sum_reduction_for_comms(True)


def _find_layers(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules in the outermost lists of modules, without those that share a parameter with another one."""
    users = Counter(id(p) for module in model.modules() for p in module.parameters(recurse=False))

    def visit(module: nn.Module) -> Iterator[nn.Module]:
        for child in module.children():
            if not isinstance(module, nn.ModuleList):
                yield from visit(child)
            elif any(True for _ in child.parameters()) and all(users[id(p)] == 1 for p in child.parameters()):
                yield child

    return visit(model)
