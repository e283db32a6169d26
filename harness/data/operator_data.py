"""Pairs of fields on regular grids, an input and what an operator makes of it, from files of tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.data.cache import compute_digest, compute_file_digest


@dataclass(frozen=True, eq=False)
class FieldPairs:
    """Samples of `x` and `y`, float32, [samples, channels, height, width] on one grid."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, samples: slice | list[int]) -> "FieldPairs":
        return FieldPairs(self.x[samples], self.y[samples])

    def to(self, device: torch.device | str) -> "FieldPairs":
        return FieldPairs(self.x.to(device, non_blocking=True), self.y.to(device, non_blocking=True))

    @property
    def grid(self) -> str:
        """Such as 16, or 17x16."""
        height, width = self.y.shape[-2:]
        return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True, eq=False)
class FieldData:
    """What to train on, and what to score on: the first of `held_out` is the validation set, no two have one grid."""

    train: FieldPairs
    held_out: tuple[FieldPairs, ...]
    digest: str
    name: str
    source: str
    eval_batch_size: int
    shuffle: bool
    seed: int


def load_pt_files(
    *, train: str, tests: Sequence[str], limit: int | None, eval_batch_size: int, shuffle: bool, seed: int,
    cache_dir: Path,
) -> FieldData:  # fmt: skip
    """The first `limit` samples of `train`, or all, and all of `tests`, the files that `read` takes; FileNotFoundError
    or ValueError where they do not serve."""
    if isinstance(tests, str) or not tests:
        raise ValueError(f"tests={tests!r} must be a list of files, such as [test_16.pt,test_32.pt]")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be 1 or more, or null for every sample")
    paths = [Path(file).expanduser() for file in (train, *tests)]
    fields = [read_field_pairs(path) for path in paths]
    if limit is not None and limit > len(fields[0]):
        raise ValueError(f"limit={limit} is more than the {len(fields[0])} samples of {paths[0]}; lower it")
    names = ", ".join(path.name for path in paths)
    key = compute_digest(*map(compute_file_digest, paths), limit)
    return build_field_data(fields[0][:limit], fields[1:], key, "PtFiles", names, eval_batch_size, shuffle, seed)


def build_field_data(
    train: FieldPairs, held_out: Sequence[FieldPairs], key: str, name: str, source: str, eval_batch_size: int, shuffle: bool,
    seed: int,
) -> FieldData:  # fmt: skip
    """The data, if they are of one kind and can be told apart; ValueError otherwise."""
    if eval_batch_size < 1:
        raise ValueError(f"eval_batch_size={eval_batch_size} must be 1 or more")
    channels = [(fields.x.shape[1], fields.y.shape[1]) for fields in (train, *held_out)]
    if len(set(channels)) > 1:
        raise ValueError(f"the channels of x and y differ from file to file: {channels}; take files of one problem")
    grids = [fields.grid for fields in held_out]
    if len(set(grids)) < len(grids):
        raise ValueError(f"tests on the grids {', '.join(grids)} cannot be told apart; give one a grid, or join them")
    return FieldData(train, tuple(held_out), key, name, source, eval_batch_size, shuffle, seed)


def read_field_pairs(path: Path) -> FieldPairs:
    """The `x` and `y` of a dictionary that torch.save wrote, each [samples, height, width] or [samples, channels,
    height, width]; an x of a dimension less, such as a state at the start, stands in every row of y.

    Read as data, never as code. FileNotFoundError, or ValueError that says what is wrong with the file."""
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give a .pt file with x and y")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind the bytes happen to lead to
        raise ValueError(f"{path} is no file of tensors that torch.save wrote, or is damaged") from error
    x, y = (_get_tensor(found, name, path) for name in ("x", "y"))
    if x.ndim == y.ndim - 1 and x.shape[1:] == y.shape[2:]:
        x = x.unsqueeze(1).expand_as(y)
    x, y = (fields.unsqueeze(1) if fields.ndim == 3 else fields for fields in (x, y))
    _check_pair(x, y, path)
    return FieldPairs(x.contiguous(), y.contiguous())


def _get_tensor(found: object, name: str, path: Path) -> Tensor:
    if not isinstance(found, dict) or not isinstance(found.get(name), Tensor):
        held = (
            f"a dictionary of {', '.join(map(str, found))}" if isinstance(found, dict) else f"a {type(found).__name__}"
        )
        raise ValueError(f"{path} has no tensor {name!r}: it holds {held}; save {{'x': ..., 'y': ...}}")
    if found[name].is_complex():
        raise ValueError(f"{name} of {path} is complex; save its real and imaginary parts as two channels")
    return found[name].float()


def _check_pair(x: Tensor, y: Tensor, path: Path) -> None:
    shapes = f"x of {path} is {list(x.shape)}, y {list(y.shape)}"
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(f"{shapes}; either must be [samples, height, width] or [samples, channels, height, width]")
    if not len(x) or len(x) != len(y):
        raise ValueError(f"{shapes}: they must have as many samples as each other, and at least one")
    if x.shape[2:] != y.shape[2:]:
        raise ValueError(f"{shapes}: their grids differ; sample both on one")
    for name, fields in (("x", x), ("y", y)):
        wrong = (~fields.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if wrong:
            raise ValueError(f"{name} of {path} is not finite in {len(wrong)} samples, first in sample {wrong[0]}")
    zero = (y == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if zero:
        raise ValueError(f"y of {path} is 0 everywhere in sample {zero[0]}: no error is relative to it; leave it out")
