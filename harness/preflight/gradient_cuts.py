"""Find the values that autograd takes as constants: detach(), no_grad(), argmax, and hold them fixed.

A gradient is the derivative of the loss with these values held at what they were. So a stop-gradient that is meant, as
in self-distillation, and one by accident agree with it, and a hook that changes gradients does not.
"""

import inspect
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from harness.preflight.training_setup import TrainingSetup

LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
TO_PYTHON = ("item", "tolist", "__float__", "__int__", "__bool__", "__index__")  # give numbers, not tensors
ALIASES = ("detach()", ".data")
ADDITIONS = ("add", "__add__", "__radd__", "__iadd__", "add_")
OWN_GRADIENTS = ("FakeQuantize", "FakeQuant")  # operations of torch whose gradient is not their derivative


@dataclass
class CutValue:
    """A value that depends on the trainable parameters and has no gradient, and the line that computes it."""

    operation: str
    where: str
    value: Any

    @property
    def is_choice(self) -> bool:
        """Return whether it is an index or a condition, which has no derivative in any case."""
        values = self.value if isinstance(self.value, tuple | list) else [self.value]
        return not any(isinstance(each, float) or (isinstance(each, Tensor) and _is_real(each)) for each in values)


@dataclass
class GradientCuts:
    """Constants of a loss in the order in which it computes them; replays of the loss fill `changed`."""

    constants: list[CutValue] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    """Operations with a gradient of their own, each with the line that defines it."""
    frozen_layers: list[str] = field(default_factory=list)
    """Frozen layers inside the model that are called without gradients on what depends on trainable parameters."""
    residual_lines: list[str] = field(default_factory=list)
    """Lines that detach the input of a branch whose output is added to that input again."""
    overwritten_lines: list[str] = field(default_factory=list)
    """Lines that write to a tensor of the graph through detach() or .data."""
    changed: dict[str, CutValue] = field(default_factory=dict)
    """By line, those that differed in a replay."""

    def describe_lines(self, lines: Collection[str]) -> str:
        """Return the operations at some lines, such as `detach() in train.py:12`."""
        texts = [f"{self.changed[line].operation} in {line}" for line in lines]
        return "; ".join(texts[:3]) + (f"; {len(texts) - 3} more" if len(texts) > 3 else "")


class ReplayError(Exception):
    """Raised if a loss computes its constants in another order than before."""


class _Tape(TorchFunctionMode):
    """Record the constants of a forward pass, or put the recorded ones in their place except those of some lines."""

    def __init__(self, cuts: GradientCuts, replays: bool, released: Collection[str]) -> None:
        super().__init__()
        self.cuts, self.replays, self.released = cuts, replays, released
        self.index = 0
        self.dependent: dict[int, Any] = {}  # by id; kept, so that no id is used again
        self.sources: dict[
            int, tuple[Any, str]
        ] = {}  # by id of a detached tensor: what it was detached from, and where
        self.branches: dict[int, tuple[Any, set[int]]] = {}  # by id: a tensor and the detached ones it depends on

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = _name_operation(func)
        if not self.replays:
            self._follow_branches(name, args, result)
        if not self._is_constant(name, args, kwargs or {}, result):
            return result
        where = _find_caller()
        if where is None:
            return result
        name = name if torch.is_grad_enabled() else "no_grad()"
        if self.replays:
            result = self._replace(CutValue(name, where, result))
        else:
            self.cuts.constants.append(CutValue(name, where, _copy_values(result)))
            if name in ALIASES:
                self.sources[id(result)] = (args[0], where)
        for part in result if isinstance(result, tuple | list) else [result]:
            self.dependent[id(part)] = part
        return result

    def _is_constant(self, name: str, args: Any, kwargs: dict[str, Any], result: Any) -> bool:
        """Return whether a result has no gradient although an argument depends on the trainable parameters."""
        if name.endswith("_") and not name.endswith("__"):
            return False  # in place
        parts = result if isinstance(result, tuple | list) else [result]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        if (name not in TO_PYTHON) if not tensors else all(part.requires_grad for part in tensors):
            return False
        return any(each.requires_grad or id(each) in self.dependent for each in _iterate_tensors((args, kwargs)))

    def _follow_branches(self, name: str, args: Any, result: Any) -> None:
        """Note what is written to detached tensors, and where a branch that starts with one returns to its source."""
        ids = [id(each) for each in _iterate_tensors(args)]
        if name.endswith("_") and not name.endswith("__") and ids and ids[0] in self.sources:
            self.cuts.overwritten_lines.append(_find_caller() or "")
        origins = set[int]().union(
            *({each} for each in ids if each in self.sources),
            *(self.branches[each][1] for each in ids if each in self.branches),
        )
        if not origins or not isinstance(result, Tensor) or not result.requires_grad:
            return
        self.branches[id(result)] = (result, origins)
        if name in ADDITIONS:
            returned = [self.sources[origin] for origin in origins if id(self.sources[origin][0]) in ids]
            self.cuts.residual_lines += [where for _, where in returned]

    def _replace(self, fresh: CutValue) -> Any:
        if self.index >= len(self.cuts.constants):
            raise ReplayError
        recorded = self.cuts.constants[self.index]
        self.index += 1
        if (recorded.operation, recorded.where) != (fresh.operation, fresh.where):
            raise ReplayError
        if fresh.where not in self.cuts.changed and not _equal_values(recorded.value, fresh.value):
            self.cuts.changed[fresh.where] = recorded
        return fresh.value if fresh.where in self.released else _merge_values(recorded.value, fresh.value)


def record_cuts(setup: TrainingSetup, batch: Any) -> GradientCuts:
    """Return what autograd takes as constant in the loss of a batch."""
    cuts = GradientCuts()
    with torch.enable_grad(), _watched_layers(setup.model, cuts.frozen_layers), _Tape(cuts, False, ()):
        loss = setup.compute_loss(batch)
    cuts.functions = _find_own_gradients(loss)
    return cuts


def replay_loss(setup: TrainingSetup, batch: Any, cuts: GradientCuts, released: Collection[str] = ()) -> float:
    """Return the loss with all constants at their recorded values, except those of the `released` lines.

    Raises:
        ReplayError: If the loss computes other constants than before.
    """
    with torch.enable_grad(), _Tape(cuts, True, released):
        loss = setup.compute_loss(batch)
    return loss.item()


@contextmanager
def _watched_layers(model: nn.Module, found: list[str]) -> Iterator[None]:
    """Note the frozen layers below the model that are called without gradients on an input that has one."""
    depth = 0

    def make_hook(name: str, is_frozen: bool) -> Callable[[nn.Module, Any], None]:
        def enter(module: nn.Module, args: Any) -> None:
            nonlocal depth
            depends = any(each.requires_grad for each in _iterate_tensors(args))
            if is_frozen and depth and depends and not torch.is_grad_enabled() and name not in found:
                found.append(name)
            depth += 1

        return enter

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        nonlocal depth
        depth -= 1

    hooks = []
    for name, module in model.named_modules():
        weights = list(module.parameters())
        is_frozen = bool(weights) and not any(weight.requires_grad for weight in weights)
        hooks.append(module.register_forward_pre_hook(make_hook(name, is_frozen)))
        hooks.append(module.register_forward_hook(leave))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _find_own_gradients(loss: Tensor) -> list[str]:
    """Return the operations of a loss whose gradient is defined by hand, except those of torch's own code."""
    found, seen, nodes = dict[str, None](), set[Any](), [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes.extend(following for following, _ in node.next_functions)
        if isinstance(node, BackwardCFunction):
            function = getattr(node, "_forward_cls", type(node))
            if not function.__module__.startswith("torch."):
                found[f"{function.__name__} in {_find_definition(function)}"] = None
        elif node.name().startswith(OWN_GRADIENTS):
            found[node.name().removesuffix("Backward0")] = None
    return list(found)


def _find_definition(function: type) -> str:
    code = inspect.unwrap(function.backward).__code__  # type: ignore[attr-defined]
    return f"{code.co_filename}:{code.co_firstlineno}"


def _find_caller() -> str | None:
    """Return file and line of the innermost frame outside torch and this package.

    None inside a custom Function, which runs without gradients and has a gradient of its own.
    """
    frame, found = sys._getframe(2), None
    while frame is not None:
        path = frame.f_code.co_filename
        if path.endswith("autograd/function.py"):
            return None
        if found is None and not path.startswith(LIBRARIES):
            found = f"{path}:{frame.f_lineno}"
        frame = frame.f_back  # type: ignore[assignment]
    return found


def _name_operation(func: Any) -> str:
    name = getattr(func, "__name__", str(func))
    if name == "__get__":
        return ".data" if func == torch.Tensor.data.__get__ else name  # type: ignore[attr-defined]
    return f"{name}()" if name in ("detach", "numpy") else name


def _iterate_tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _iterate_tensors(part)
    elif isinstance(value, dict):
        yield from _iterate_tensors(tuple(value.values()))


def _is_real(value: Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def _copy_values(value: Any) -> Any:
    if isinstance(value, Tensor):
        return None if value.requires_grad else value.detach().clone()
    return tuple(map(_copy_values, value)) if isinstance(value, tuple) else value


def _merge_values(recorded: Any, fresh: Any) -> Any:
    """Return the recorded value; of several, such as values and indices, those without a gradient only."""
    if isinstance(fresh, Tensor):
        return fresh if fresh.requires_grad else recorded.clone()
    if isinstance(fresh, tuple):
        parts = [_merge_values(one, other) for one, other in zip(recorded, fresh, strict=True)]
        return type(fresh)(parts) if type(fresh) is not tuple else tuple(parts)
    return recorded


def _equal_values(recorded: Any, fresh: Any) -> bool:
    if isinstance(fresh, Tensor):
        return fresh.requires_grad or torch.equal(recorded, fresh)
    if isinstance(fresh, tuple):
        return all(_equal_values(one, other) for one, other in zip(recorded, fresh, strict=True))
    return recorded == fresh
