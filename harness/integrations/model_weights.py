"""Tell from the weights of a torch model whether it was trained before, and whether all are finite."""

import torch
from torch import Tensor, nn


def has_trained_norms(model: nn.Module) -> bool:
    """Return whether the weights of a norm differ from each other, as no initialization leaves them."""
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    weights = [weight for norm in norms if isinstance(weight := getattr(norm, "weight", None), Tensor)]
    return any(bool((weight != weight.flatten()[0]).any()) for weight in weights if weight.numel() > 1)


def has_bad_weights(model: nn.Module) -> bool:
    """Return whether a weight is not finite, after which a training cannot recover."""
    return any(not bool(torch.isfinite(parameter).all()) for parameter in model.parameters())
