"""Leave objects of a framework as they were: their attributes, and what the containers among these hold."""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

MAX_DEPTH, MAX_SIZE = 3, 1000  # of containers whose content is restored; longer ones are data


@contextmanager
def preserved_attributes(objects: Sequence[Any]) -> Iterator[None]:
    """Restore all attributes on exit, and the content of lists and dicts among them, in place."""
    states = [(each.__dict__, dict(each.__dict__), _record_content(dict(each.__dict__), MAX_DEPTH)) for each in objects]
    try:
        yield
    finally:
        for attributes, values, content in states:
            attributes.clear()
            attributes.update(values)
            for name, part in content.items():
                _restore_content(values[name], part[1])


@contextmanager
def preserved_model(model: nn.Module) -> Iterator[None]:
    """Restore hooks, modes, replaced methods and `requires_grad` of a model on exit; weights are left to the checks."""
    trainable = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    with preserved_attributes(list(model.modules())):
        yield
    for parameter, requires_grad in trainable:
        parameter.requires_grad_(requires_grad)


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
    value.clear()
    if isinstance(value, dict):
        value.update({key: item for key, (item, _) in content.items()})
    elif isinstance(value, set):
        value.update(item for item, _ in content)
    else:
        value.extend(item for item, _ in content)
    for item, inner in parts:
        _restore_content(item, inner)
