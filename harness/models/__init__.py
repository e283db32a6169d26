"""What every model is asked, ours or of transformers."""

from torch import nn


def positions(model: nn.Module) -> int | None:
    """The longest sequence `model` takes, in tokens; None where it sets no limit."""
    own = getattr(model, "positions", None)
    return own if own is not None else getattr(getattr(model, "config", None), "max_position_embeddings", None)


def untie_head(model: nn.Module) -> None:
    """Give the output head a copy of its own of a weight that it shares, and let the model's config say so."""
    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    if hasattr(model, "config"):
        model.config.tie_word_embeddings = False
