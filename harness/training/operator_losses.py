"""How far a predicted field is from the true one, relative to the true one's size."""

import torch
from torch import Tensor


def relative_l2(predicted: Tensor, true: Tensor) -> Tensor:
    """||predicted - true|| / ||true|| of each sample, [samples], over channels and grid; inf where `true` is 0."""
    return _sample_norms(predicted - true) / _sample_norms(true)


def relative_h1(predicted: Tensor, true: Tensor) -> Tensor:
    """The same with the slopes in both directions in either norm, [samples]; fields are [samples, channels, y, x] on
    the unit square and taken as periodic."""
    return relative_l2(_append_slopes(predicted), _append_slopes(true))


def _sample_norms(fields: Tensor) -> Tensor:
    return torch.linalg.vector_norm(fields.flatten(1), dim=1)


def _append_slopes(fields: Tensor) -> Tensor:
    return torch.cat([fields, _central_difference(fields, -2), _central_difference(fields, -1)], dim=1)


def _central_difference(fields: Tensor, dim: int) -> Tensor:
    """Central differences over a grid of spacing 1 / points."""
    return (fields.roll(-1, dim) - fields.roll(1, dim)) * (fields.shape[dim] / 2)
