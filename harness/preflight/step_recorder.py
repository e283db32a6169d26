"""Record the gradients of a training step: as backward leaves them, and as they reach the optimizer."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness.preflight.probe import affordable_tokens, get_dense_grad, subsample_batch
from harness.preflight.training_setup import TrainingSetup

Gradients = Mapping[str, Tensor]
AFFORDABLE = 2e9  # parameters times tokens up to which steps are taken on complete batches
PART_SIZE = 2**20  # elements that are converted to float64 at a time


@dataclass
class StepRecord:
    """Gradients by parameter name: after the last backward pass, and at the optimizer's update.

    `scaled_between` holds the factor of a gradient between two backward passes that add to it, without an update in
    between; `alternates` says whether backward passes stand before and after an update. `updates` counts the calls of
    each optimizer, `lrs` holds the LR of each parameter at its update, and `was_training` whether the model was in
    training mode in any forward pass.
    """

    raw: dict[str, Tensor] = field(default_factory=dict)
    final: dict[str, Tensor] = field(default_factory=dict)
    updates: dict[int, int] = field(default_factory=dict)
    lrs: dict[str, float] = field(default_factory=dict)
    scaled_between: dict[str, float] = field(default_factory=dict)
    alternates: bool = False
    was_training: bool = False
    n_forwards: int = 0

    @property
    def is_single_update(self) -> bool:
        """Return whether each optimizer made one update."""
        return bool(self.updates) and set(self.updates.values()) == {1}


class _Recorder:
    """Hooks that fill the record of a step."""

    def __init__(self, setup: TrainingSetup, keeps_gradients: bool) -> None:
        self.record, self.keeps_gradients = StepRecord(), keeps_gradients
        self.names = {id(weight): name for name, weight in setup.trainable_parameters.items()}
        self.has_update_after_backward = False
        self.norms = dict[int, float]()  # of the gradients after the last backward pass, until an update

    def read_gradient(self, parameter: nn.Parameter) -> Tensor | None:
        gradient = get_dense_grad(parameter)
        return gradient if self.keeps_gradients or gradient is None else gradient.abs().max()

    def before_accumulation(self, parameter: nn.Parameter) -> None:
        if last := self.norms.get(id(parameter)):
            gradient, name = self.read_gradient(parameter), self.names[id(parameter)]
            ratio = gradient.norm().item() / last if gradient is not None else 0.0
            self.record.scaled_between[name] = min(ratio, self.record.scaled_between.get(name, 1.0))

    def after_backward(self, parameter: nn.Parameter) -> None:
        gradient = self.read_gradient(parameter)
        if gradient is not None:
            self.record.alternates |= self.has_update_after_backward
            self.record.raw[self.names[id(parameter)]] = gradient
            self.norms[id(parameter)] = gradient.norm().item()

    def before_update(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> Any:
        """Read the gradients; if the update gets a closure that computes them, as in Lightning, read them after it."""
        updates = self.record.updates
        self.has_update_after_backward = bool(self.record.raw)
        updates[id(optimizer)] = updates.get(id(optimizer), 0) + 1
        closure = kwargs.get("closure") or next((each for each in args[1:] if callable(each)), None)
        if closure is None:
            self.read_final(optimizer)
            return None

        def call_and_read() -> Any:
            result = closure()
            self.read_final(optimizer)
            return result

        return args[:1], kwargs | {"closure": call_and_read}

    def read_final(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                self.norms.pop(id(parameter), None)
                name = self.names.get(id(parameter))
                if name is None or name in self.record.lrs:
                    continue
                self.record.lrs[name] = float(group["lr"])
                if (gradient := self.read_gradient(parameter)) is not None:
                    raw = self.record.raw.get(name)  # kept once if the same, to save memory
                    is_same = raw is not None and raw.dtype == gradient.dtype and torch.equal(raw, gradient)
                    self.record.final[name] = raw if raw is not None and is_same else gradient

    def before_forward(self, module: nn.Module, args: Any) -> None:
        self.record.n_forwards += 1
        self.record.was_training |= module.training


@contextmanager
def recorded_step(setup: TrainingSetup, keeps_gradients: bool = True) -> Iterator[StepRecord]:
    """Yield a record that a training step fills, with gradients or only with the largest element of each."""
    recorder = _Recorder(setup, keeps_gradients)
    hooks: list[Any] = [setup.model.register_forward_pre_hook(recorder.before_forward)]
    hooks += [optimizer.register_step_pre_hook(recorder.before_update) for optimizer in setup.optimizer_list]
    for parameter in setup.trainable_parameters.values():
        hooks.append(parameter.register_hook(lambda _, weight=parameter: recorder.before_accumulation(weight)))
        hooks.append(parameter.register_post_accumulate_grad_hook(recorder.after_backward))
    try:
        yield recorder.record
    finally:
        for hook in hooks:
            hook.remove()


def choose_step_batches(setup: TrainingSetup) -> list[Any]:
    """Return the batches as they are if a step on them is affordable, and otherwise their first rows."""
    tokens = setup.text.read_tokens(setup.batches[0]).inputs.numel() if setup.text is not None else 1
    if sum(weight.numel() for weight in setup.model.parameters()) * tokens <= AFFORDABLE:
        return list(setup.batches)
    return [subsample_batch(setup, batch, affordable_tokens(setup.model)) for batch in setup.batches]


def compute_true_gradients(setup: TrainingSetup, batch: Any) -> dict[str, Tensor] | None:
    """Return the gradients of the loss, leaving those that are there; None if the loss is random or has none."""
    parameters = dict(setup.trainable_parameters)
    kept = {name: parameter.grad for name, parameter in parameters.items()}
    try:
        for parameter in parameters.values():
            parameter.grad = None
        torch.manual_seed(0)
        loss = setup.compute_loss(batch)
        if not loss.requires_grad or not torch.isfinite(loss):
            return None
        loss.backward()
        gradients = {name: get_dense_grad(parameter) for name, parameter in parameters.items()}
        with torch.no_grad():
            torch.manual_seed(1)
            again = setup.compute_loss(batch)
        if not math.isclose(loss.item(), again.item(), rel_tol=1e-3):
            return None
    finally:
        for name, parameter in parameters.items():
            parameter.grad = kept[name]
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}


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
