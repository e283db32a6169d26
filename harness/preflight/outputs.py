"""The model's output while the loss is computed: record it, compare it, replace it."""

import copy
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

SHAPE_TOLERANCE = 1e-3  # relative change of the output that other kernels for another shape may cause, in float32


@contextmanager
def locked_eval_mode(model: nn.Module) -> Iterator[None]:
    """Keep the model in eval mode even if a training loop calls `model.train()`."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    for module, _ in modes:
        object.__setattr__(module, "train", lambda mode=True, module=module: module)
    try:
        yield
    finally:
        for module, mode in modes:
            module.__dict__.pop("train", None)
            module.training = mode


@contextmanager
def outermost_calls(model: nn.Module, on_output: Callable[[nn.Module, Any, Any, Any], Any]) -> Iterator[None]:
    """Call `on_output(module, args, kwargs, output)` after each forward pass that is not part of another one.

    This is the model, or a part of it that the loss calls itself, as below a wrapper. A returned value that is not None
    replaces the output.
    """
    depth = 0

    def enter(module: nn.Module, args: Any) -> None:
        nonlocal depth
        depth += 1

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        nonlocal depth
        depth -= 1
        return on_output(module, args, kwargs, output) if depth == 0 else None

    hooks = []
    for module in model.modules():
        hooks.append(module.register_forward_pre_hook(enter))
        hooks.append(module.register_forward_hook(leave, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def record_outputs(model: nn.Module, compute: Callable[[], Any]) -> tuple[Any, list[Tensor]]:
    """Return (result of `compute`, the output tensor of each outermost forward pass)."""
    outputs: list[Tensor] = []

    def record(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        tensor = find_output_tensor(output)
        if tensor is not None:
            outputs.append(tensor)

    with outermost_calls(model, record):
        result = compute()
    return result, outputs


def find_output_tensor(output: Any) -> Tensor | None:
    """Return the logits of an output of transformers, or the first tensor of floats that is not a scalar."""
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    if isinstance(output, Tensor):
        return output if output.ndim and output.is_floating_point() else None
    parts: Sequence[Any] = list(output.values()) if isinstance(output, Mapping) else ()
    for part in output if isinstance(output, tuple | list) else parts:
        if (found := find_output_tensor(part)) is not None:
            return found
    return None


def replace_output(output: Any, old: Tensor, new: Tensor) -> Any:
    """Return `output` with one tensor replaced, or None if its type is unknown."""
    if output is old:
        return new
    if type(output) in (tuple, list):
        return type(output)(new if part is old else part for part in output)
    other = copy.copy(output)
    if isinstance(output, MutableMapping):  # a dict, or an output of transformers
        for key in [key for key, part in output.items() if part is old]:
            other[key] = new
        return other
    names = [name for name, part in getattr(output, "__dict__", {}).items() if part is old]
    if not names:
        return None
    other.__dict__.update(dict.fromkeys(names, new))
    return other


def relative_change(before: Tensor, after: Tensor) -> Tensor:
    """Return the largest change in the last dimension, relative to the spread of all values."""
    spread = before.detach().float().std() if before.numel() > 1 else before.detach().float().abs().max()
    change = (before - after).detach().float().abs()
    return (change.amax(-1) if change.ndim > 1 else change) / spread.clamp(min=torch.finfo(torch.float32).tiny)


def find_loss_floor(model: nn.Module, compute_loss: Callable[[], Tensor], steps: int = 100) -> float | None:
    """Return the lowest loss over all outputs that the model could have, found by descent, or None.

    It is above 0 for soft targets and for losses that compare examples. None if the loss is computed inside the model.
    """
    with torch.no_grad():
        first, outputs = record_outputs(model, compute_loss)
        if not outputs or not torch.isfinite(first):
            return None
        free = [output.detach().float().clone().requires_grad_() for output in outputs]
    calls = 0

    def insert(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        nonlocal calls
        tensor = find_output_tensor(output)
        if tensor is None or calls >= len(free):
            return None
        calls += 1
        return replace_output(output, tensor, free[calls - 1])

    scale = max(output.detach().std().item() if output.numel() > 1 else 1.0 for output in free)
    optimizer, lowest = torch.optim.Adam(free, lr=0.3 * max(1.0, scale)), first.item()
    with outermost_calls(model, insert):
        for _ in range(steps):
            optimizer.zero_grad()
            calls = 0
            loss = compute_loss()
            if not loss.requires_grad:
                return None
            loss.backward()
            if all(output.grad is None for output in free):
                return None
            optimizer.step()
            lowest = min(lowest, loss.item())
    return lowest
