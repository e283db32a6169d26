"""Record the gradients of a training step: as backward leaves them, and as they reach the optimizer."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.probe import get_dense_grad
from harness.preflight.training_setup import TrainingSetup

Gradients = Mapping[str, Tensor]
PART_SIZE = 2**20  # elements that are converted to float64 at a time


@dataclass
class StepRecord:
    """Gradients by parameter name: after the last backward pass, and at the optimizer's update.

    `updates` counts the calls of each optimizer, `lrs` holds the LR of each parameter at its update, and `was_training`
    whether the model was in training mode in any forward pass.
    """

    raw: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    lrs: dict[str, float] = field(default_factory=dict)
    was_training: bool = False
    n_forwards: int = 0

    @property
    def is_single_update(self) -> bool:
        """Return whether each optimizer made one update."""
        return bool(self.updates) and set(self.updates.values()) == {1}


@contextmanager
def recorded_step(setup: TrainingSetup, keeps_gradients: bool = True) -> Iterator[StepRecord]:
    """Yield a record that a training step fills, with gradients or only with the largest element of each."""
    record, names = StepRecord(), {id(weight): name for name, weight in setup.trainable_parameters.items()}

    def read(parameter: nn.Parameter) -> Tensor | None:
        gradient = get_dense_grad(parameter)
        return gradient if keeps_gradients or gradient is None else gradient.abs().max()

    def after_backward(parameter: nn.Parameter) -> None:
        gradient = read(parameter)
        if gradient is not None:
            record.raw[names[id(parameter)]] = gradient

    def before_update(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """Read the gradients; if the update gets a closure that computes them, as in Lightning, read them after it."""
        record.updates[id(optimizer)] = record.updates.get(id(optimizer), 0) + 1
        closure = kwargs.get("closure") or next((each for each in args[1:] if callable(each)), None)
        if closure is None:
            read_final(optimizer)
            return None

        def call_and_read() -> Any:
            result = closure()
            read_final(optimizer)
            return result

        return args[:1], kwargs | {"closure": call_and_read}

    def read_final(optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = names.get(id(parameter))
                if name is None or name in record.lrs:
                    continue
                record.lrs[name] = float(group["lr"])
                if (gradient := read(parameter)) is not None:
                    record.final[name] = gradient

    def before_forward(module: nn.Module, args: Any) -> None:
        record.n_forwards += 1
        record.was_training |= module.training

    hooks: list[Any] = [setup.model.register_forward_pre_hook(before_forward)]
    hooks += [optimizer.register_step_pre_hook(before_update) for optimizer in setup.optimizer_list]
    for parameter in setup.trainable_parameters.values():
        hooks.append(parameter.register_post_accumulate_grad_hook(after_backward))
    try:
        yield record
    finally:
        for hook in hooks:
            hook.remove()


def inner_product(one: Gradients, other: Gradients) -> float:
    """Return the real inner product over the names that both hold."""
    return sum(_multiply(one[name], other[name]) for name in one.keys() & other.keys())


def _multiply(one: Tensor, other: Tensor) -> float:
    """Return the inner product in float64, a part at a time, with complex numbers as pairs."""
    flat = [
        (torch.view_as_real(each.resolve_conj()) if each.is_complex() else each).reshape(-1) for each in (one, other)
    ]
    parts = zip(flat[0].split(PART_SIZE), flat[1].split(PART_SIZE), strict=True)
    return sum(torch.dot(left.double(), right.double()).item() for left, right in parts)


def measure_norm(gradients: Gradients) -> float:
    return inner_product(gradients, gradients) ** 0.5
