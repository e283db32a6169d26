"""Data for operator learning: pairs of input and output fields on regular grids, read from files of arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from harness.core.digests import compute_file_digest
from harness.data.cache import compute_digest
from harness.data.field_files import FIELD_SUFFIXES, read_arrays
from harness.data.field_layout import Channels, arrange_channels
from harness.data.splits import check_disjoint, check_split_settings, count_test
from harness.data.text_files import find_data_files

FieldPlace = str | Sequence[str] | Mapping[str, str | Sequence[str]]


@dataclass(frozen=True, eq=False)
class FieldPairs:
    """Samples of inputs `x` and outputs `y` on one grid, float32, [samples, channels, *grid]."""

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
        """Grid size, such as `16x17`; `16` if all sides are equal."""
        sides = self.y.shape[2:]
        return str(sides[0]) if len(set(sides)) == 1 else "x".join(map(str, sides))


@dataclass(frozen=True, eq=False)
class FieldData:
    """Training and held-out samples. The first held-out set is the validation set; all have different grids.

    Only `with_test_evaluated` reads `test`, whose sets have different grids too.
    """

    train: FieldPairs
    held_out: tuple[FieldPairs, ...]
    digest: str
    name: str
    source: str
    eval_batch_size: int
    shuffle: bool
    seed: int
    test: tuple[FieldPairs, ...] = ()
    split_digests: Mapping[str, str] = field(default_factory=dict)

    def with_test_evaluated(self) -> "FieldData | None":
        """Return the data with the test sets in place of the held-out ones, or None if there are none."""
        return replace(self, held_out=self.test, test=()) if self.test else None


def load_field_files(
    *,
    train: FieldPlace,
    validation: FieldPlace | None,
    val_fraction: float | None,
    test: FieldPlace | None,
    test_share: float | None = None,
    x: str | int,
    y: str | int,
    channels: Channels | None,
    limit: int | None,
    eval_batch_size: int,
    shuffle: bool,
    seed: int,
    cache_dir: Path,
) -> FieldData:
    """Load training, validation and test samples from files.

    A place is a file, a folder, a glob or a list of these, or `{x: FILE, y: FILE}` for files of one array each. Files
    with the same grid are joined. Without files `validation`, the last `val_fraction` of the training samples are held
    out; the `test_share` right before them, or the files `test`, are held apart. Of the others, the first `limit` are
    kept (all if None). The arrays of a tuple are called 0 and 1.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a setting or a file is unsuitable, as in `read_field_pairs`, or if a file is in two splits.
    """
    check_split_settings(val_fraction, validation, test_share, test)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit} must be 1 or more, or null for every sample")
    places = {"train": train, "validation": validation, "test": test}
    pairs = {name: _list_pairs(name, place) for name, place in places.items() if place is not None}
    files = {
        name: {compute_digest(*map(compute_file_digest, pair)): str(pair[0]) for pair in found}
        for name, found in pairs.items()
    }
    check_disjoint(files)
    sets = {name: _join_by_grid(found, str(x), str(y), channels) for name, found in pairs.items()}
    if len(sets["train"]) > 1:
        grids = ", ".join(fields.grid for fields in sets["train"])
        raise ValueError(f"train: its files have different grids, {grids}; train on one of them")
    training, held_out = _hold_out(sets["train"][0], val_fraction, test_share)
    sets |= held_out
    if limit is not None and limit > len(training):
        raise ValueError(f"limit={limit} is more than the {len(training)} samples for training; lower it")
    of_files = {name: compute_digest([*found], x, y, channels) for name, found in files.items()}
    digests = _digest_splits(of_files, val_fraction, test_share, limit)
    data = build_field_data(
        training[:limit],
        sets["validation"],
        compute_digest(sorted((name, digest) for name, digest in digests.items() if name != "test")),
        "FieldFiles",
        "; ".join([*(f"{name}: {_name_files(found)}" for name, found in pairs.items()), describe_shape(training)]),
        eval_batch_size,
        shuffle,
        seed,
        sets.get("test", ()),
    )
    return replace(data, split_digests=digests)


def build_field_data(
    train: FieldPairs,
    held_out: Sequence[FieldPairs],
    key: str,
    name: str,
    source: str,
    eval_batch_size: int,
    shuffle: bool,
    seed: int,
    test: Sequence[FieldPairs] = (),
) -> FieldData:
    """Build the data; raise ValueError if dimensions or channels differ, or two held-out sets have the same grid."""
    if eval_batch_size < 1:
        raise ValueError(f"eval_batch_size={eval_batch_size} must be 1 or more")
    channels = [(fields.x.shape[1], fields.y.shape[1]) for fields in (train, *held_out, *test)]
    if len(set(channels)) > 1:
        raise ValueError(f"the channels of x and y differ between files: {channels}; use files of one problem")
    dimensions = [fields.y.ndim - 2 for fields in (train, *held_out, *test)]
    if len(set(dimensions)) > 1:
        raise ValueError(f"the dimensions of the grids differ between files: {dimensions}; use files of one problem")
    grids = [fields.grid for fields in held_out]
    if len(set(grids)) < len(grids):
        raise ValueError(f"two held-out sets have the same grid: {', '.join(grids)}; give one for each grid")
    return FieldData(train, tuple(held_out), key, name, source, eval_batch_size, shuffle, seed, tuple(test))


def read_field_pairs(
    path: Path, x: str = "x", y: str = "y", channels: Channels | None = None, y_path: Path | None = None
) -> FieldPairs:
    """Read the arrays `x` and `y` of a file, or of the files `path` and `y_path`, without running code from them.

    Their layout is [samples, *grid] with or without channels, as in `arrange_channels`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its content is unsuitable; the message says why.
    """
    if y_path is None:
        where, arrays = str(path), read_arrays(path, {"x": x, "y": y})
    else:
        where, arrays = f"{path} and {y_path}", [*read_arrays(path, {"x": x}), *read_arrays(y_path, {"y": y})]
    fields = FieldPairs(*arrange_channels(arrays[0], arrays[1], channels, where))
    _check_values(fields, path, y_path or path)
    return fields


def _list_pairs(name: str, place: FieldPlace) -> list[tuple[Path, ...]]:
    """Return the files of a split: one for each pair of arrays, or one with x and one with y."""
    if not isinstance(place, Mapping):
        return [(path,) for path in find_data_files(place, FIELD_SUFFIXES, name)]
    if sorted(place) != ["x", "y"]:
        raise ValueError(f"{name}={dict(place)!r} must have the keys x and y, such as {{x: x.npy, y: y.npy}}")
    listed = [find_data_files(place[key], FIELD_SUFFIXES, f"{name}.{key}") for key in ("x", "y")]
    if len(listed[0]) != len(listed[1]):
        raise ValueError(f"{name}: {len(listed[0])} files with x and {len(listed[1])} with y; give one y for each x")
    return list(zip(*listed, strict=True))


def _join_by_grid(pairs: Sequence[tuple[Path, ...]], x: str, y: str, channels: Channels | None) -> list[FieldPairs]:
    """Read all files and join those whose fields have the same shape; the order is that of the first of each."""
    sets: dict[tuple[torch.Size, torch.Size], list[FieldPairs]] = {}
    for path, *others in pairs:
        fields = read_field_pairs(path, x, y, channels, *others)
        sets.setdefault((fields.x.shape[1:], fields.y.shape[1:]), []).append(fields)
    return [
        parts[0] if len(parts) == 1 else FieldPairs(torch.cat([f.x for f in parts]), torch.cat([f.y for f in parts]))
        for parts in sets.values()
    ]


def _digest_splits(
    of_files: Mapping[str, str], val_fraction: float | None, test_share: float | None, limit: int | None
) -> dict[str, str]:
    """Return the digest of each split from those of the files; a limit changes the training samples only."""
    train, shares = of_files["train"], [val_fraction, *([] if test_share is None else [test_share])]
    cut = {"train": compute_digest(train, limit, *shares)}
    if val_fraction is not None:
        cut["validation"] = compute_digest(train, val_fraction, "validation")
    if test_share is not None:
        cut["test"] = compute_digest(train, *shares, "test")
    return {**of_files, **cut}


def _hold_out(
    fields: FieldPairs, val_fraction: float | None, test_share: float | None
) -> tuple[FieldPairs, dict[str, list[FieldPairs]]]:
    """Split off the last samples for validation and those before them for the test split, as far as there are shares.

    Raises:
        ValueError: If none is left for training.
    """
    total = len(fields)
    n_val = 0 if val_fraction is None else max(1, round(val_fraction * total))
    if n_val >= total:
        raise ValueError(
            f"val_fraction={val_fraction} leaves none of the {total} samples for training; "
            "lower it, or give validation files"
        )
    end = total - n_val
    start = end - count_test(total, n_val, test_share, "samples")
    parts = {"test": fields[start:end], "validation": fields[end:]}
    return fields[:start], {name: [part] for name, part in parts.items() if len(part)}


def describe_shape(fields: FieldPairs) -> str:
    channels = f"{fields.x.shape[1]} and {fields.y.shape[1]} channels"
    return f"x and y of {channels} on a grid of {'x'.join(map(str, fields.y.shape[2:]))}"


def _name_files(pairs: Sequence[tuple[Path, ...]]) -> str:
    return ", ".join(path.name for pair in pairs for path in pair)


def _check_values(fields: FieldPairs, x_path: Path, y_path: Path) -> None:
    """Check that all values are finite and that no output is 0 everywhere.

    Raises:
        ValueError: If not; the message names the first sample.
    """
    for name, values, path in (("x", fields.x, x_path), ("y", fields.y, y_path)):
        bad = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(f"{name} of {path} is not finite in {len(bad)} samples, the first is sample {bad[0]}")
    zero = (fields.y == 0).flatten(1).all(1).nonzero().flatten().tolist()
    if zero:
        raise ValueError(
            f"y of {y_path} is 0 everywhere in sample {zero[0]}: its relative error is undefined; remove the sample"
        )
