"""Layouts of field arrays: found where the shapes leave no doubt, asked for where they do."""

import re

import pytest
import torch
from torch import Tensor

from harness.data.field_layout import arrange_channels


def make_fields(*shape: int) -> Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape).float()


@pytest.mark.parametrize(
    ("x", "y", "arranged"),
    [
        ((5, 64), (5, 64), ((5, 1, 64), (5, 1, 64))),
        ((5, 16, 16), (5, 16, 16), ((5, 1, 16, 16), (5, 1, 16, 16))),
        ((5, 8, 20), (5, 8, 20), ((5, 1, 8, 20), (5, 1, 8, 20))),
        ((5, 1, 64), (5, 1, 64), ((5, 1, 64), (5, 1, 64))),
        ((5, 64, 1), (5, 64, 1), ((5, 1, 64), (5, 1, 64))),
        ((5, 64, 3), (5, 64, 1), ((5, 3, 64), (5, 1, 64))),
        ((5, 3, 64), (5, 1, 64), ((5, 3, 64), (5, 1, 64))),
        ((5, 64), (5, 64, 2), ((5, 1, 64), (5, 2, 64))),
        ((5, 64), (5, 2, 64), ((5, 1, 64), (5, 2, 64))),
        ((5, 2, 64), (5, 64), ((5, 2, 64), (5, 1, 64))),
        ((5, 16), (5, 17, 16), ((5, 1, 17, 16), (5, 1, 17, 16))),  # Burgers: an initial state for all times
        ((5, 12, 20, 3), (5, 12, 20, 1), ((5, 3, 12, 20), (5, 1, 12, 20))),
        ((5, 3, 32, 32), (5, 3, 32, 32), ((5, 3, 32, 32), (5, 3, 32, 32))),
        ((5, 32, 48, 3), (5, 32, 48, 3), ((5, 3, 32, 48), (5, 3, 32, 48))),
        ((5, 12, 20), (5, 12, 20, 7), ((5, 1, 12, 20), (5, 7, 12, 20))),
        ((5, 8, 8, 8, 1), (5, 8, 8, 8, 1), ((5, 1, 8, 8, 8), (5, 1, 8, 8, 8))),
    ],
)
def test_clear_shapes_are_found(x: tuple, y: tuple, arranged: tuple) -> None:
    found = arrange_channels(make_fields(*x), make_fields(*y), None, "f.npz")
    assert tuple(tuple(fields.shape) for fields in found) == arranged
    assert all(fields.is_contiguous() for fields in found)


def test_channels_last_keep_their_values() -> None:
    x = make_fields(2, 12, 20, 3)
    assert torch.equal(arrange_channels(x, x, "last", "f")[0][:, 1], x[..., 1])


AMBIGUOUS = [
    ((5, 10, 64, 64), "data.channels=first (64x64 grid, 10 and 10 channels)", "none"),
    ((5, 16, 16, 16), "data.channels=last (16x16 grid, 16 and 16 channels)", "last"),
    ((5, 9, 9, 9, 9), "data.channels=first (9x9x9 grid, 9 and 9 channels) or data.channels=last", "first"),
]


@pytest.mark.parametrize(("shape", "option", "answer"), AMBIGUOUS)
def test_ambiguous_shapes_are_asked_for(shape: tuple, option: str, answer: str) -> None:
    fields = make_fields(*shape)
    with pytest.raises(ValueError, match=re.escape(option)):
        arrange_channels(fields, fields, None, "f.npz")
    with pytest.raises(ValueError, match=r"x of f.npz is \[5, .*, which can be read in [23] ways: set data.channels="):
        arrange_channels(fields, fields, None, "f.npz")
    assert arrange_channels(fields, fields, answer, "f.npz")[0].ndim == fields.ndim + (answer == "none")


def test_short_first_axis_is_channels_unless_asked_otherwise() -> None:
    fields = make_fields(5, 3, 64)
    assert arrange_channels(fields, fields, None, "f")[0].shape == (5, 3, 64)
    assert arrange_channels(fields, fields, "none", "f")[0].shape == (5, 1, 3, 64)


@pytest.mark.parametrize(
    ("x", "y", "channels", "message"),
    [
        ((5, 16, 16), (4, 16, 16), None, "both need the same number of samples along their first axis, at least one"),
        ((0, 16, 16), (0, 16, 16), None, "at least one"),
        ((5, 16, 16), (5, 8, 8), None, "they do not share a grid of 1 to 3 dimensions; save"),
        ((5,), (5,), None, "they do not share a grid"),
        ((5, 8, 8, 8, 8, 8), (5, 8, 8, 8, 8, 8), None, "they do not share a grid"),
        ((5, 16, 16), (5, 17, 16), "last", "1 to 3 dimensions with data.channels=last; save"),
        ((5, 16, 16), (5, 16, 16), "middle", "channels='middle' must be first, last or none"),
    ],
)
def test_other_shapes_are_refused(x: tuple, y: tuple, channels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arrange_channels(make_fields(*x), make_fields(*y), channels, "f.npz")
