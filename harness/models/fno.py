"""Fourier neural operators of the neuraloperator library, with fields in physical units."""

from types import MethodType

import torch
from torch import Tensor, nn


def build_fno(*, x: Tensor, y: Tensor, modes: int, width: int, layers: int) -> "NormalizedOperator":
    """Build an FNO (Li et al., 2021) with `modes` Fourier modes in each direction.

    `x` and `y` are the training set, of shape (samples, channels, *grid). They set the dimensions, the numbers of
    channels and the normalization.

    Raises:
        ValueError: If a size is below 1, there are more modes than grid points, or neuraloperator is missing.
    """
    for name, size in (("modes", modes), ("width", width), ("layers", layers)):
        if size < 1:
            raise ValueError(f"{name}={size} must be 1 or more")
    if modes > (points := min(x.shape[2:])):
        raise ValueError(
            f"modes={modes} is more than the {points} points of the training grid, and untrained modes act on finer "
            f"grids; use model.modes={points} or fewer"
        )
    try:
        from neuralop.models import FNO
    except ImportError as error:
        raise ValueError(f"FNO needs neuraloperator: pip install 'plateau-harness[operator]' ({error})") from error
    network = FNO(
        n_modes=(modes,) * (x.ndim - 2),
        in_channels=x.shape[1],
        out_channels=y.shape[1],
        hidden_channels=width,
        n_layers=layers,
        lifting_channel_ratio=2,
        projection_channel_ratio=2,
        positional_embedding="grid",
        fno_skip="linear",
        channel_mlp_expansion=0.5,
        channel_mlp_skip="soft-gating",
    )
    # The library's own state_dict holds functions beside the tensors, which torch.load refuses with weights_only.
    network.state_dict = MethodType(nn.Module.state_dict, network)
    return NormalizedOperator(network, x, y)


class NormalizedOperator(nn.Module):
    """Network whose inputs and targets are normalized per channel to mean 0 and standard deviation 1.

    The statistics are those of the training set and are saved with the weights.
    """

    x_mean: Tensor
    x_std: Tensor
    y_mean: Tensor
    y_std: Tensor

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.network = network
        for name, fields in (("x", x), ("y", y)):
            std, mean = torch.std_mean(fields, dim=(0, *range(2, fields.ndim)), keepdim=True)
            self.register_buffer(f"{name}_mean", mean)
            self.register_buffer(f"{name}_std", std.where(std > 0, 1.0))  # 0 in a constant channel

    def forward(self, x: Tensor) -> Tensor:
        """Return float32 fields in the units of `y`, on the grid of `x`."""
        return self.network((x - self.x_mean) / self.x_std).float() * self.y_std + self.y_mean

    def normalize_targets(self, y: Tensor) -> Tensor:
        """Return `y`, true or predicted, in the units of the network's output."""
        return (y - self.y_mean) / self.y_std
