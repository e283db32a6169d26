"""How large the gradient is in each part of a model."""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

LAYER = re.compile(r"(.*?\.\d+)\.")
"""The name of a layer among its like, such as `blocks.3`."""


def layer_grad_norms(parameters: Iterable[tuple[str, nn.Parameter]], total: float) -> Mapping[str, float]:
    """The gradient's L2 norm of each layer, scaled so that all of them together have the norm `total`, as before
    clipping; nothing where that is not finite or there is no gradient."""
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            layers.setdefault(layer_name(name), []).append(parameter.grad)
    if not layers:
        return {}
    norms = torch.stack([torch.stack(torch._foreach_norm(grads)).float().norm() for grads in layers.values()])
    scale = total / norms.norm().item() if norms.any() else 1.0
    values = (norms * scale).tolist()
    return dict(zip(layers, values, strict=True)) if all(map(math.isfinite, values)) else {}


def layer_name(name: str) -> str:
    """The layer that a parameter belongs to: among its like, or else the module; an adapter to what it adapts."""
    if numbered := LAYER.match(name):
        return numbered[1]
    adapted, lora, _ = name.partition(".lora_")
    return adapted if lora else name.rpartition(".")[0] or name
