"""What every model is asked, ours or of transformers."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def max_positions(model: nn.Module) -> int | None:
    """The longest sequence `model` takes, in tokens; None where it sets no limit."""
    own = getattr(model, "positions", None)
    limit = own if own is not None else getattr(getattr(model, "config", None), "max_position_embeddings", None)
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return limit - module.padding_idx - 1  # RoBERTa's kind counts positions from behind that of padding
    return limit


@torch.no_grad()
def is_causal(model: nn.Module, logits: Callable[[Tensor], Tensor] | None = None) -> bool:
    """Whether what stands after a token changes nothing there; `logits` of ids, [rows, tokens], are the model's own
    where nothing else is given."""
    ids = torch.tensor([[0, 1], [0, 2]])
    was_training = model.training
    model.eval()
    made = logits(ids) if logits else model(input_ids=ids.to(next(model.parameters()).device)).logits
    model.train(was_training)
    first, second = made[:, 0].float()
    return torch.allclose(first, second, rtol=1e-3, atol=1e-4)


def untie_head(model: nn.Module) -> None:
    """Give the output head a copy of its own of a weight that it shares, and let the model's config say so."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    if hasattr(model, "config"):
        model.config.tie_word_embeddings = False
