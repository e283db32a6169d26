"""Leave models and objects of a framework as they were: their attributes, and what the containers among these hold."""

from collections import deque
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

OF_EACH_MODULE = frozenset(nn.Module().__dict__) - {"_buffers"}  # parameters, hooks, modules: no state between calls
MAX_DEPTH, MAX_SIZE = 3, 1000  # of containers whose content is restored; longer ones are data


@contextmanager
def preserved_attributes(objects: Sequence[Any], fixed: Container[str] = ()) -> Iterator[None]:
    """Restore all attributes on exit, and the content of lists and dicts among them, other than the `fixed` ones."""
    states = []
    for each in objects:
        containers = {name: value for name, value in each.__dict__.items() if name not in fixed}
        states.append((each, type(each), dict(each.__dict__), _record_content(containers, MAX_DEPTH)))
    try:
        yield
    finally:
        for each, kind, values, content in states:
            if type(each) is not kind:
                continue  # a lazy layer that has got its shape
            if not _holds_same(each.__dict__, values):
                each.__dict__.clear()
                each.__dict__.update(values)
            for name, part in content.items():
                _restore_content(values[name], part[1])


@contextmanager
def preserved_model(model: nn.Module) -> Iterator[None]:
    """Restore hooks, modes, replaced methods and `requires_grad` of a model on exit; weights are left to the checks."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with preserved_attributes(list(model.modules())):
        try:
            yield
        finally:
            for parameter, requires_grad in trainable:
                parameter.requires_grad_(requires_grad)


@contextmanager
def preserved_model_state(model: nn.Module) -> Iterator[None]:
    """Restore what a forward pass may keep for the next one: attributes of modules, but not weights and buffers."""
    with preserved_attributes(list(model.modules()), OF_EACH_MODULE):
        yield


@contextmanager
def preserved_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore hyperparameters and moments on exit."""
    groups, state = [(group, dict(group)) for group in optimizer.param_groups], optimizer.state
    moments = {
        parameter: {name: value.clone() if isinstance(value, torch.Tensor) else value for name, value in part.items()}
        for parameter, part in state.items()
    }
    with preserved_attributes([optimizer]):
        yield
    for group, values in groups:
        group.clear()
        group.update(values)
    state.clear()
    state.update(moments)


def _record_content(value: Any, depth: int) -> Any:
    """Return the items of a container, each with its own content; None if it is not to be restored."""
    if not depth or not isinstance(value, dict | list | deque | set) or len(value) > MAX_SIZE:
        return None
    if isinstance(value, dict):
        return {key: (item, _record_content(item, depth - 1)) for key, item in value.items()}
    return [(item, _record_content(item, depth - 1)) for item in value]


def _restore_content(value: Any, content: Any) -> None:
    if content is None:
        return
    parts = content.values() if isinstance(value, dict) else content
    items = (
        {key: item for key, (item, _) in content.items()} if isinstance(value, dict) else [item for item, _ in content]
    )
    if not _holds_same(value, items):
        value.clear()
        if isinstance(value, dict | set):
            value.update(items)
        else:
            value.extend(items)
    for item, inner in parts:
        _restore_content(item, inner)


def _holds_same(value: Any, items: Any) -> bool:
    """Return whether a container holds the very objects that it held before, in the same order."""
    if len(value) != len(items):
        return False
    if isinstance(value, dict):
        return all(key == other and value[key] is items[other] for key, other in zip(value, items, strict=True))
    return all(one is other for one, other in zip(value, items, strict=True))
