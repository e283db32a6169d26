"""Batches of any layout: mappings, tuples, lists, dataclasses and tensors, whose first dimension is the examples."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

TARGET_NAMES = ("labels", "label", "targets", "target", "y")


def iterate_parts(batch: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the tensors and arrays of a batch with their names, such as "labels" or "1"."""
    if isinstance(batch, Tensor | np.ndarray):
        yield name, batch
    else:
        for key, part in list_children(batch):
            yield from iterate_parts(part, f"{name}.{key}" if name else str(key))


def list_children(batch: Any) -> list[tuple[Any, Any]]:
    """Return the parts of a mapping, a sequence or a dataclass by key, index or field; no parts of anything else."""
    if isinstance(batch, Mapping):
        return list(batch.items())
    if isinstance(batch, tuple | list):
        return list(enumerate(batch))
    if dataclasses.is_dataclass(batch) and not isinstance(batch, type):
        return [(field.name, getattr(batch, field.name)) for field in dataclasses.fields(batch)]
    return []


def count_examples(batch: Any) -> int | None:
    """Return the number of examples in a batch, or None if it has no parts or parts of different lengths."""
    lengths = {len(part) for _, part in iterate_parts(batch) if part.ndim}
    return lengths.pop() if len(lengths) == 1 else None


def select_rows(batch: Any, rows: Any, n_rows: int) -> Any:
    """Return a batch of the same layout with only the given rows; parts that do not have `n_rows` are kept."""
    if isinstance(batch, Tensor | np.ndarray):
        if not batch.ndim or len(batch) != n_rows:
            return batch
        index = rows.to(batch.device) if isinstance(batch, Tensor) and isinstance(rows, Tensor) else rows
        return batch[np.asarray(rows) if isinstance(batch, np.ndarray) and not isinstance(rows, slice) else index]
    if isinstance(batch, list) and len(batch) == n_rows and all(isinstance(part, str | int | float) for part in batch):
        return batch[rows] if isinstance(rows, slice) else [batch[int(row)] for row in rows]
    return rebuild_batch(batch, [select_rows(part, rows, n_rows) for _, part in list_children(batch)])


def rebuild_batch(batch: Any, parts: list[Any]) -> Any:
    """Return a batch of the same layout with other parts."""
    names = [name for name, _ in list_children(batch)]
    if not names:
        return batch
    if isinstance(batch, Mapping):
        other: Any = copy.copy(batch)
        for name, part in zip(names, parts, strict=True):
            other[name] = part
        return other
    if isinstance(batch, tuple | list):
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return dataclasses.replace(batch, **dict(zip(names, parts, strict=True)))


def find_target(batch: Any) -> tuple[str, Tensor] | None:
    """Return the part that holds the targets, by its usual name or as the second of two, or None."""
    children = dict(list_children(batch))
    for name in TARGET_NAMES:
        if isinstance(children.get(name), Tensor):
            return name, children[name]
    if isinstance(batch, tuple | list) and len(batch) == 2 and isinstance(batch[1], Tensor):
        return "1", batch[1]
    return None


def replace_part(batch: Any, name: str, value: Any) -> Any:
    """Return the batch with another part at the top level."""
    return rebuild_batch(batch, [value if str(key) == name else part for key, part in list_children(batch)])


def cut_columns(batch: Any, row: int, columns: slice, shape: tuple[int, int]) -> Any:
    """Return one row of a batch, with only some columns of what has tokens; `shape` is that of the tokens.

    Masks between tokens, [rows, ..., tokens, tokens], are cut in both dimensions.
    """
    n_rows, width = shape

    def cut(part: Any) -> Any:
        if not isinstance(part, Tensor):
            children = list_children(part)
            return rebuild_batch(part, [cut(child) for _, child in children]) if children else part
        if not part.ndim or len(part) != n_rows:
            return part
        part = part[row : row + 1]
        if part.ndim == 2 and part.shape[1] == width:
            return part[:, columns]
        if part.ndim >= 3 and part.shape[-1] == width and part.shape[-2] == width:
            return part[..., columns, columns]
        return part[:, columns] if part.ndim >= 3 and part.shape[1] == width else part

    return cut(batch)


def are_equal(one: Any, other: Any) -> bool:
    """Return whether two batches hold the same values."""
    parts, others = dict(iterate_parts(one)), dict(iterate_parts(other))
    return parts.keys() == others.keys() and all(_is_same(part, others[name]) for name, part in parts.items())


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other) if one.shape == other.shape else False
    return np.array_equal(one, other)
