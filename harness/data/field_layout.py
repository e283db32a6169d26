"""Find the axes of channels in a pair of field arrays from their shapes, or ask for them."""

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

from torch import Tensor

Channels = Literal["first", "last", "none"]
MAX_GRID_DIMENSIONS = 3
MAX_CHANNELS, MIN_GRID_RATIO = 4, 4
"""An axis of at most so many entries, and so many times shorter than every other, is one of channels."""


def arrange_channels(x: Tensor, y: Tensor, channels: Channels | None, where: str) -> tuple[Tensor, Tensor]:
    """Return both arrays as [samples, channels, *grid], with a grid of one to three dimensions.

    An array without channels gets one. An x with one dimension less than y, such as an initial state [samples, points]
    for y [samples, times, points], is repeated along the first axis of the grid of y if `channels` is `none`.

    Args:
        channels: The axis of the channels, for the array with more dimensions if they differ; None to find it.
        where: What messages call the file.

    Raises:
        ValueError: If the shapes do not go together, or fit several layouts.
    """
    shapes = f"x of {where} is {list(x.shape)}, y {list(y.shape)}"
    if channels is not None and channels not in get_args(Channels):
        raise ValueError(f"channels={channels!r} must be first, last or none, or null to find it")
    if not len(x) or len(x) != len(y):
        raise ValueError(f"{shapes}: both need the same number of samples along their first axis, at least one")
    fitting = list(_list_fitting(tuple(x.shape[1:]), tuple(y.shape[1:])))
    if channels is None:
        channels = _choose_layout(tuple(x.shape[1:]), tuple(y.shape[1:]), fitting)
    if channels is None and fitting:
        options = " or ".join(f"data.channels={one} ({_describe_reading(x, y, one)})" for one in fitting)
        raise ValueError(f"{shapes}, which can be read in {len(fitting)} ways: set {options}")
    if channels not in fitting:
        asked = "" if channels is None else f" with data.channels={channels}"
        raise ValueError(
            f"{shapes}: they do not share a grid of 1 to {MAX_GRID_DIMENSIONS} dimensions{asked}; "
            "save [samples, *grid] or [samples, channels, *grid], both on the same grid"
        )
    if channels == "none" and x.ndim < y.ndim:
        x = x.unsqueeze(1).expand_as(y)
    n_axes = max(x.ndim, y.ndim)
    x, y = (_put_channels_first(fields, channels if fields.ndim == n_axes else "none") for fields in (x, y))
    return x.contiguous(), y.contiguous()


def _list_fitting(x: Sequence[int], y: Sequence[int]) -> Iterator[Channels]:
    """Yield the layouts in which both shapes, without samples, have the same grid."""
    n_axes = max(len(x), len(y))
    is_repeated = len(x) == n_axes - 1 and x == y[1:]
    if (x == y or is_repeated) and 1 <= n_axes <= MAX_GRID_DIMENSIONS:
        yield "none"
    if 2 <= n_axes <= MAX_GRID_DIMENSIONS + 1 and min(len(x), len(y)) >= n_axes - 1:
        if _drop(x, 0, n_axes) == _drop(y, 0, n_axes):
            yield "first"
        if _drop(x, -1, n_axes) == _drop(y, -1, n_axes):
            yield "last"


def _drop(shape: Sequence[int], axis: int, n_axes: int) -> list[int]:
    """Return the grid of a shape; one with fewer axes has no channels."""
    grid = list(shape)
    if len(grid) == n_axes:
        grid.pop(axis)
    return grid


def _choose_layout(x: Sequence[int], y: Sequence[int], fitting: Sequence[Channels]) -> Channels | None:
    """Return the layout that the shapes leave no doubt about, None if they do.

    Arrays [samples, n, m] whose axes are both long are fields on a grid, not channels.
    """
    if len(fitting) == 1:
        return fitting[0]
    longer = [shape for shape in (x, y) if len(shape) == max(len(x), len(y))]
    axes: dict[Channels, int] = {"first": 0, "last": -1}
    with_short_axis = [
        name
        for name, axis in axes.items()
        if name in fitting and all(_is_channel_axis(shape, axis) for shape in longer)
    ]
    if with_short_axis:
        return with_short_axis[0] if len(with_short_axis) == 1 else None
    return "none" if "none" in fitting and max(len(x), len(y)) == 2 else None


def _is_channel_axis(shape: Sequence[int], axis: int) -> bool:
    others = _drop(shape, axis, len(shape))
    return shape[axis] == 1 < min(others) or shape[axis] <= min(MAX_CHANNELS, min(others) // MIN_GRID_RATIO)


def _describe_reading(x: Tensor, y: Tensor, channels: Channels) -> str:
    n_axes = max(x.ndim, y.ndim)
    counts = []
    for fields in (x, y):
        has_channels = channels != "none" and fields.ndim == n_axes
        counts.append(fields.shape[1 if channels == "first" else -1] if has_channels else 1)
    grid = list(y.shape[1:])
    if channels != "none" and y.ndim == n_axes:
        grid.pop(0 if channels == "first" else -1)
    return f"{'x'.join(map(str, grid))} grid, {counts[0]} and {counts[1]} channels"


def _put_channels_first(fields: Tensor, channels: Channels) -> Tensor:
    if channels == "none":
        return fields.unsqueeze(1)
    return fields.movedim(-1, 1) if channels == "last" else fields
