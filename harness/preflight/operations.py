"""The operations of a forward pass: whether it combines positions or rows, and whether it routes some of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

CHOICES = ("topk", "argmax", "max", "sort", "argsort")  # of experts, or of the tokens of an expert
PLACEMENTS = ("index_put", "index_add", "index_copy", "scatter", "scatter_add", "gather", "nonzero")
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class OperationRecorder(TorchDispatchMode):
    """Record the name of each operation with the shapes of its first argument and of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, torch.Size, torch.Size]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) and result else result
        shapes = [each.shape if isinstance(each, Tensor) else torch.Size() for each in (*args[:1], first)]
        if len(shapes) == 2:
            self.calls.append((func.overloadpacket.__name__, shapes[0], shapes[1]))
        return result

    def has_attention(self, length: int) -> bool:
        """Return whether an operation compares `length` things with each other, as attention does."""
        square = (length, length)
        return any(
            ("attention" in name and length in given[-3:-1]) or ("softmax" in name and tuple(result[-2:]) == square)
            for name, given, result in self.calls
        )

    def makes_choices(self) -> bool:
        """Return whether some of several things are chosen and put in their places, as routing to experts does."""
        names = {name.strip("_") for name, _, _ in self.calls}
        return bool(names & {*CHOICES}) and bool(names & {*PLACEMENTS})


def record_operations(compute: Callable[[], Any]) -> OperationRecorder:
    """Return the operations of `compute`, without those that torch fuses for inference."""
    with _unfused_layers(), OperationRecorder() as recorder:
        compute()
    return recorder


def combines_positions(model: nn.Module, compute: Callable[[], Any], width: int) -> bool:
    """Return whether the model has a part that combines `width` positions: attention, recurrence or a convolution."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase) or (isinstance(module, CONVOLUTIONS) and max(module.kernel_size) > 1):
            return True
    return record_operations(compute).has_attention(width)


@contextmanager
def _unfused_layers() -> Iterator[None]:
    is_fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fused)
