"""Tensors of which each process holds a part, as `parallel=fsdp` leaves them; torch calls them DTensors."""

import sys
from typing import Any

from torch import Tensor, nn


def is_sharded(tensor: Tensor) -> bool:
    """Return whether this process holds only a part of a tensor."""
    loaded: Any = sys.modules.get("torch.distributed.tensor")  # takes a second to import, and without it there are none
    return loaded is not None and isinstance(tensor, loaded.DTensor)


def has_sharded_weights(model: nn.Module) -> bool:
    """Return whether the processes share the parameters of a model, so that all take part in each forward pass."""
    return any(map(is_sharded, model.parameters()))


def to_whole(tensor: Tensor) -> Tensor:
    """Return a tensor with the parts of all processes, which all have to ask for it."""
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


def to_local(tensor: Tensor) -> Tensor:
    """Return the part that this process holds."""
    sharded: Any = tensor
    return sharded.to_local() if is_sharded(tensor) else tensor


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """Return the part of a whole tensor that this process holds of `like`; `whole` itself if that is not sharded."""
    if not is_sharded(like) or is_sharded(whole) or whole.shape != like.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    sharded: Any = like
    whole = whole.to(sharded.device_mesh.device_type)
    return distribute_tensor(whole, sharded.device_mesh, sharded.placements, src_data_rank=None)


def identify_storage(tensor: Tensor) -> int:
    """Return a number that tied tensors of a model share.

    Those of a sharded model are one object, which `state_dict(keep_vars=True)` returns; a part may have no storage.
    """
    return id(tensor) if is_sharded(tensor) else tensor.data_ptr()


def gather_state_dict(model: nn.Module, *, is_kept: bool) -> dict[str, Tensor]:
    """Return the whole tensors of a sharded model on the CPU if `is_kept`, and nothing otherwise.

    Every process has to call it. They are gathered one at a time, and tied ones once.
    """
    gathered: dict[int, Tensor] = {}
    state: dict[str, Tensor] = model.state_dict(keep_vars=True)
    for tensor in state.values():
        if identify_storage(tensor) not in gathered:
            whole = to_whole(tensor.detach())
            gathered[identify_storage(tensor)] = whole.to("cpu", copy=True) if is_kept else whole.new_empty(0)
    return {name: gathered[identify_storage(tensor)] for name, tensor in state.items()} if is_kept else {}
