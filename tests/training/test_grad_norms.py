"""Gradient norms by layer."""

import math

import pytest
import torch
from torch import nn

from harness.training.grad_norms import layer_grad_norms, layer_name


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("transformer.h.3.attn.c_attn.weight", "transformer.h.3"),
        ("blocks.0.fc.lora_A.default.weight", "blocks.0"),
        ("lm_head.lora_B.default.weight", "lm_head"),
        ("wte.weight", "wte"),
        ("scale", "scale"),
    ],
)
def test_layer_name(name: str, layer: str) -> None:
    assert layer_name(name) == layer


def test_norms_are_those_before_clipping() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))
    model(torch.ones(2, 3)).square().sum().backward()
    true = [math.sqrt(sum(p.grad.norm() ** 2 for p in layer.parameters())) for layer in model]
    total = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e-3).item()
    norms = layer_grad_norms(((f"layers.{name}", p) for name, p in model.named_parameters()), total)
    assert norms == {"layers.0": pytest.approx(true[0], rel=1e-4), "layers.1": pytest.approx(true[1], rel=1e-4)}


def test_no_norms_without_finite_gradients() -> None:
    model = nn.Linear(2, 1)
    assert layer_grad_norms(model.named_parameters(), 1.0) == {}
    model(torch.ones(1, 2)).sum().backward()
    assert layer_grad_norms(model.named_parameters(), math.nan) == {}
