"""Data for operator learning: pairs of input and output fields on regular grids, read from tensor files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from harness.core.digests import compute_file_digest
from harness.core.files import check_regular_file
from harness.data.cache import compute_digest


@dataclass(frozen=True, eq=False)
class FieldPairs:
    """Samples of inputs `x` and outputs `y` on one grid, float32, [samples, channels, height, width]."""

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
        """Grid size, such as `16` or `17x16`."""
        height, width = self.y.shape[-2:]
        return str(height) if height == width else f"{height}x{width}"


@dataclass(frozen=True, eq=False)
class FieldData:
    """Training and held-out samples. The first held-out set is the validation set; all have different grids."""

    train: FieldPairs
    held_out: tuple[FieldPairs, ...]
    digest: str
    name: str
    source: str
    eval_batch_size: int
    shuffle: bool
    seed: int


def load_pt_files(
    *,
    train: str,
    tests: Sequence[str],
    limit: int | None,
    eval_batch_size: int,
    shuffle: bool,
    seed: int,
    cache_dir: Path,
) -> FieldData:
    """Load the first `limit` samples of the file `train` (all if None) and all samples of the files `tests`.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the content of a file is unsuitable, as in `read_field_pairs`.
    """
    if isinstance(tests, str) or not tests:
        raise ValueError(f"tests={tests!r} must be a list of files, such as [test_16.pt,test_32.pt]")
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be 1 or more, or null for every sample")
    paths = [Path(file).expanduser() for file in (train, *tests)]
    splits = [read_field_pairs(path) for path in paths]
    if limit is not None and limit > len(splits[0]):
        raise ValueError(f"limit={limit} is more than the {len(splits[0])} samples of {paths[0]}; lower it")
    names = ", ".join(path.name for path in paths)
    key = compute_digest(*map(compute_file_digest, paths), limit)
    return build_field_data(splits[0][:limit], splits[1:], key, "PtFiles", names, eval_batch_size, shuffle, seed)


def build_field_data(
    train: FieldPairs,
    held_out: Sequence[FieldPairs],
    key: str,
    name: str,
    source: str,
    eval_batch_size: int,
    shuffle: bool,
    seed: int,
) -> FieldData:
    """Build the data; raise ValueError if channels differ between sets or two held-out sets have the same grid."""
    if eval_batch_size < 1:
        raise ValueError(f"eval_batch_size={eval_batch_size} must be 1 or more")
    channels = [(fields.x.shape[1], fields.y.shape[1]) for fields in (train, *held_out)]
    if len(set(channels)) > 1:
        raise ValueError(f"the channels of x and y differ between files: {channels}; use files of one problem")
    grids = [fields.grid for fields in held_out]
    if len(set(grids)) < len(grids):
        raise ValueError(f"two of the tests have the same grid: {', '.join(grids)}; give one file per grid")
    return FieldData(train, tuple(held_out), key, name, source, eval_batch_size, shuffle, seed)


def read_field_pairs(path: Path) -> FieldPairs:
    """Read `{"x": ..., "y": ...}` saved with torch.save, without running code from the file.

    Each tensor is [samples, height, width] or [samples, channels, height, width]. An x with one dimension less, such as
    an initial state, is repeated in every row of y.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is unsuitable; the message says why.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a .pt file with x and y")
    check_regular_file(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types, depending on the bytes
        raise ValueError(f"{path} is damaged or not a file of tensors saved with torch.save") from error
    x, y = (_get_tensor(content, name, path) for name in ("x", "y"))
    if x.ndim == y.ndim - 1 and x.shape[1:] == y.shape[2:]:
        x = x.unsqueeze(1).expand_as(y)
    x, y = (fields.unsqueeze(1) if fields.ndim == 3 else fields for fields in (x, y))
    _check_pair(x, y, path)
    return FieldPairs(x.contiguous(), y.contiguous())


def _get_tensor(content: object, name: str, path: Path) -> Tensor:
    found = content.get(name) if isinstance(content, dict) else None
    if not isinstance(found, Tensor):
        kind = f"a {type(content).__name__}"
        if isinstance(content, dict):
            kind = f"a dictionary of {', '.join(map(str, content))}"
        raise ValueError(f"{path} has no tensor {name!r}: it holds {kind}; save {{'x': ..., 'y': ...}}")
    if found.is_complex():
        raise ValueError(f"{name} of {path} is complex; save its real and imaginary parts as two channels")
    return found.float()


def _check_pair(x: Tensor, y: Tensor, path: Path) -> None:
    shapes = f"x of {path} is {list(x.shape)}, y {list(y.shape)}"
    if x.ndim != 4 or y.ndim != 4:
        raise ValueError(f"{shapes}; both must be [samples, height, width] or [samples, channels, height, width]")
    if not len(x) or len(x) != len(y):
        raise ValueError(f"{shapes}: both need the same number of samples, at least one")
    if x.shape[2:] != y.shape[2:]:
        raise ValueError(f"{shapes}: their grids differ; sample both on the same grid")
    for name, fields in (("x", x), ("y", y)):
        bad = (~fields.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name} of {path} is not finite in {len(bad)} samples, the first is sample {bad[0]}")
    zero = (y == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if zero:
        raise ValueError(
            f"y of {path} is 0 everywhere in sample {zero[0]}: its relative error is undefined; remove the sample"
        )
