"""Optimizer moments of a sharded model on disk, by torch.distributed.checkpoint: each process writes its part.

The files are safetensors, not torch's default format, which has a pickled index. Any number of processes can read them.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.core.sharding import is_sharded, shard_like
from harness.core.state import TrainState

MOMENTS_FOLDER = "moments"  # of a checkpoint


def write_sharded_moments(optimizer_state: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Write the sharded moments to `folder`; return the state with tensors without values in their places.

    Every process has to call it.

    Raises:
        OSError: If a process cannot write its part; all raise it.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter

    sharded = {name: tensor for name, tensor, _ in _iterate_moments(optimizer_state) if is_sharded(tensor)}
    try:
        dcp.save(sharded, storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))
    except dcp.CheckpointException as error:
        raise next(failure for failure, _ in error.failures.values()) from error
    return _replace_moments(
        optimizer_state,
        {name: torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for name, tensor in sharded.items()},
    )


def read_sharded_moments(
    optimizer_state: dict[str, Any], folder: Path, like: TrainState | None = None
) -> dict[str, Any]:
    """Return an optimizer state with the values in `folder` of what `write_sharded_moments` has replaced.

    The moments are whole, or sharded as the parameters of `like` are; then every process has to call it.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    parameters = _list_parameters(like) if like else {}
    moments = {
        name: _place_moment(moment, parameters.get(owner)) for name, moment, owner in _iterate_moments(optimizer_state)
    }
    missing = {name: moments[name] for name, moment, _ in _iterate_moments(optimizer_state) if moment.is_meta}
    if missing:
        is_alone = not any(map(is_sharded, missing.values()))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as asked for
            dcp.load(missing, storage_reader=HuggingFaceStorageReader(str(folder)), no_dist=is_alone)
    return _replace_moments(optimizer_state, moments)


def _place_moment(moment: Tensor, parameter: Tensor | None) -> Tensor:
    """Return a moment, sharded as its parameter is, with memory for the values that it lacks."""
    if not moment.is_meta:
        return moment if parameter is None else shard_like(moment, parameter)
    if parameter is not None and is_sharded(parameter) and parameter.shape == moment.shape:
        return torch.empty_like(parameter, dtype=moment.dtype, requires_grad=False)
    return torch.empty(moment.shape, dtype=moment.dtype)


def _list_parameters(state: TrainState) -> dict[tuple[int, int], Tensor]:
    """Return the parameters by the numbers of their optimizer and of themselves in it, as in its state dict."""
    return {
        (number, index): parameter
        for number, part in enumerate(state.optimizer.parts)
        for index, parameter in enumerate(p for group in part.param_groups for p in group["params"])
    }


def _iterate_moments(optimizer_state: dict[str, Any]) -> Iterator[tuple[str, Tensor, tuple[int, int]]]:
    """Yield the name, the tensor, and the numbers of optimizer and parameter of each moment."""
    for number, part in enumerate(optimizer_state["parts"]):
        for index, moments in part["moments"].items():
            for name, moment in moments.items():
                if isinstance(moment, Tensor):
                    yield f"{number}.{index}.{name}", moment, (number, index)


def _replace_moments(optimizer_state: dict[str, Any], by_name: dict[str, Tensor]) -> dict[str, Any]:
    """Return a copy of the state with other tensors for the moments named."""
    parts = [
        {**part, "moments": {
            index: {name: by_name.get(f"{number}.{index}.{name}", moment) for name, moment in moments.items()}
            for index, moments in part["moments"].items()}}
        for number, part in enumerate(optimizer_state["parts"])
    ]  # fmt: skip
    return {**optimizer_state, "parts": parts}
