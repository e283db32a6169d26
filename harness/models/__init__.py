"""Models, and questions that apply to every model, ours or one of transformers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from harness.core.state import eval_mode


def max_positions(model: nn.Module) -> int | None:
    """Return the longest sequence that `model` takes, in tokens; None if it sets no limit."""
    own = getattr(model, "positions", None)
    limit = own if own is not None else getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for name, module in model.named_modules():
        padding_idx = getattr(module, "padding_idx", None)
        if limit is not None and name.endswith("position_embeddings") and padding_idx is not None:
            return limit - padding_idx - 1  # RoBERTa and its descendants number positions from padding_idx + 1
    return limit


@torch.no_grad()
def is_causal(model: nn.Module, logits: Callable[[Tensor], Tensor] | None = None) -> bool:
    """Return whether the logits at a position ignore the tokens after it.

    `logits` maps ids of shape (rows, tokens) to logits; by default it calls `model`.
    """
    ids = torch.tensor([[0, 1], [0, 2]])
    with eval_mode(model):
        output = logits(ids) if logits else model(input_ids=ids.to(next(model.parameters()).device)).logits
    first, second = output[:, 0].float()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def untie_head(model: Any) -> None:
    """Give the output head its own copy of the weight that it shares with the embedding."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    if hasattr(model, "config"):
        model.config.tie_word_embeddings = False
