"""Gradient norms by layer."""

import math
import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from harness.core.sharding import to_whole

NUMBERED_LAYER = re.compile(r"(.*?\.\d+)\.")  # such as `blocks.3` in `blocks.3.mlp.up.weight`


def layer_grad_norms(parameters: Iterable[tuple[str, nn.Parameter]], total: float) -> Mapping[str, float]:
    """Return the L2 norm of the gradient of each layer, scaled so that together they have the norm `total`.

    With the total norm before clipping, the norms by layer are those before clipping too. Empty if there are no
    gradients or a norm is not finite.
    """
    layers: dict[str, list[Tensor]] = {}
    for name, parameter in parameters:
        if parameter.grad is not None:
            layers.setdefault(layer_name(name), []).append(parameter.grad)
    if not layers:
        return {}
    norms = torch.stack([to_whole(torch.stack(torch._foreach_norm(grads))).float().norm() for grads in layers.values()])
    scale = total / norms.norm().item() if norms.any() else 1.0
    values = (norms * scale).tolist()
    return dict(zip(layers, values, strict=True)) if all(map(math.isfinite, values)) else {}


def layer_name(parameter_name: str) -> str:
    """Return the numbered layer of a parameter, or else its module. An adapter belongs to the layer it adapts."""
    if numbered := NUMBERED_LAYER.match(parameter_name):
        return numbered[1]
    adapted, lora, _ = parameter_name.partition(".lora_")
    return adapted if lora else parameter_name.rpartition(".")[0] or parameter_name
