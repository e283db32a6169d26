"""Relative errors of predicted fields."""

import torch
from torch import Tensor


def relative_l2(predicted: Tensor, true: Tensor) -> Tensor:
    """Return ||predicted - true|| / ||true|| per sample, shape [samples]; inf where `true` is 0.

    The norms run over channels and grid.
    """
    return _sample_norms(predicted - true) / _sample_norms(true)


def relative_h1(predicted: Tensor, true: Tensor) -> Tensor:
    """Return the relative error in the H1 norm per sample, shape [samples]: values and slopes in every direction.

    Fields have shape [samples, channels, *grid], lie on the unit square and are taken as periodic.
    """
    return relative_l2(_append_slopes(predicted), _append_slopes(true))


def _sample_norms(fields: Tensor) -> Tensor:
    return torch.linalg.vector_norm(fields.flatten(1), dim=1)


def _append_slopes(fields: Tensor) -> Tensor:
    return torch.cat([fields, *(_central_difference(fields, dim) for dim in range(2, fields.ndim))], dim=1)


def _central_difference(fields: Tensor, dim: int) -> Tensor:
    return (fields.roll(-1, dim) - fields.roll(1, dim)) * (fields.shape[dim] / 2)  # grid spacing is 1 / points
