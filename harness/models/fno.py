"""Fourier neural operators of the neuraloperator library, between fields in the units of their data."""

from types import MethodType

import torch
from torch import Tensor, nn


def build_fno(*, x: Tensor, y: Tensor, modes: int, width: int, layers: int) -> "NormalizedOperator":
    """A two-dimensional FNO (Li et al., 2021) with `modes` in each direction for the training set `x`, `y`, [samples,
    channels, height, width]; ValueError for a size below 1 and for more modes than the grid has points."""
    for name, size in (("modes", modes), ("width", width), ("layers", layers)):
        if size < 1:
            raise ValueError(f"{name}={size} must be 1 or more")
    if modes > (points := min(x.shape[2:])):
        raise ValueError(
            f"modes={modes} is more than the {points} points of the training grid: those beyond would stay untrained, "
            f"and act on finer grids; use model.modes={points} or fewer"
        )
    try:
        from neuralop.models import FNO
    except ImportError as error:
        raise ValueError(f"an FNO needs neuraloperator: pip install 'plateau-harness[operator]' ({error})") from error
    network = FNO(
        n_modes=(modes, modes),
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
    network.state_dict = MethodType(nn.Module.state_dict, network)  # tensors only: the library's has functions in it
    return NormalizedOperator(network, x, y)


class NormalizedOperator(nn.Module):
    """`network` between fields in their own units; what it sees and makes has mean 0 and standard deviation 1 over the
    training set, channel by channel. The scales go where the weights go."""

    def __init__(self, network: nn.Module, x: Tensor, y: Tensor) -> None:
        super().__init__()
        self.network = network
        for name, fields in (("x", x), ("y", y)):
            std, mean = torch.std_mean(fields, dim=(0, 2, 3), keepdim=True)
            self.register_buffer(f"{name}_mean", mean)
            self.register_buffer(f"{name}_std", std.where(std > 0, 1.0))  # a channel that never changes

    def forward(self, x: Tensor) -> Tensor:
        """float32 fields in the units of y, on the grid of `x`."""
        return self.network((x - self.x_mean) / self.x_std).float() * self.y_std + self.y_mean

    def normalize_targets(self, y: Tensor) -> Tensor:
        """`y`, true or predicted, as the network makes it."""
        return (y - self.y_mean) / self.y_std
