"""Check the types of what a user gives, and describe values of other types."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

FUNCTIONS = ("loss_fn", "train_step", "split_batch", "evaluate", "save", "load", "merge_adapters", "lrs_at")


def check_field_types(setup: Any) -> None:
    """Check the fields of a TrainingSetup that users confuse most often.

    Raises:
        TypeError: With the name of the field, what it is, and what to give.
    """
    if not isinstance(setup.model, nn.Module):
        raise TypeError(f"model: {describe_value(setup.model)}: must be a torch.nn.Module")
    batches = setup.batches
    if isinstance(batches, Mapping | str) or not (hasattr(batches, "__len__") and hasattr(batches, "__getitem__")):
        problem = "must be a list of batches; give list(itertools.islice(loader, 4))"
        raise TypeError(f"batches: {describe_value(batches)}: {problem}")
    for name in FUNCTIONS:
        if (value := getattr(setup, name)) is not None and not callable(value):
            raise TypeError(f"{name}: {describe_value(value)}: must be a function")
    for optimizer in _list_parts("optimizer", setup.optimizer, torch.optim.Optimizer):
        if not isinstance(optimizer, torch.optim.Optimizer):
            problem = "must be a torch.optim.Optimizer or a list of them; give the one inside a wrapper"
            raise TypeError(f"optimizer: {describe_value(optimizer)}: {problem}")
    for scheduler in _list_parts("scheduler", setup.scheduler):
        if not _has_state(scheduler) or not (hasattr(scheduler, "last_epoch") and hasattr(scheduler, "step")):
            problem = "must be a scheduler of torch or a list of them; give `lrs_at` for others"
            raise TypeError(f"scheduler: {describe_value(scheduler)}: {problem}")
    if not isinstance(setup.extra_state, Sequence):
        raise TypeError(f"extra_state: {describe_value(setup.extra_state)}: must be a list; put it into brackets")
    for part in setup.extra_state:
        if not _has_state(part):
            raise TypeError(f"extra_state: {describe_value(part)}: must have state_dict and load_state_dict")


def _has_state(part: Any) -> bool:
    return hasattr(part, "state_dict") and hasattr(part, "load_state_dict")


def _list_parts(name: str, value: Any, kind: type | None = None) -> list[Any]:
    """Return the parts of a list, or the value itself as the only one."""
    if isinstance(value, Mapping):
        raise TypeError(f"{name}: {describe_value(value)}: must be a list; give list({name}.values())")
    if value is None:
        return []
    return list(value) if isinstance(value, Sequence) else [value]


def describe_value(value: Any) -> str:
    """Return a few words on a value, such as "a tensor of shape [8, 4]" or "a dict of loss, logits"."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    kind = type(value).__name__
    if isinstance(value, Mapping):
        return f"a {kind} of {', '.join(map(str, list(value)[:5]))}"
    if isinstance(value, tuple | list):
        return f"a {kind} of {len(value)}"
    return kind if value is None or isinstance(value, type) else f"{'an' if kind[0] in 'AEIOUaeiou' else 'a'} {kind}"
