"""Apply a language model's output head, by far its widest layer, only at the positions that are needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def compute_logits_at(positions: Tensor, model: nn.Module, **inputs: Tensor) -> Tensor:
    """Return the logits at these positions of the flattened batch, [positions, vocabulary]."""
    head = find_output_head(model)
    if head is None:
        return model(**inputs).logits.flatten(0, 1).index_select(0, positions)
    with project_only(positions, head):
        return model(**inputs).logits[0]


def find_output_head(model: Any) -> nn.Module | None:
    """Return the module that maps features to logits: LTG-BERT's whole head, or the last layer in transformers.

    None for a model that has neither.
    """
    head = getattr(model, "prediction_head", None)
    return head or (model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None)


@contextmanager
def project_only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """Have `head` project only these positions of the flattened batch: logits of shape (1, positions, ...)."""
    selectors = [hook for hook in head._forward_pre_hooks.values() if isinstance(hook, _PositionSelector)]
    selector = selectors[0] if selectors else _PositionSelector()
    if not selectors:
        head.register_forward_pre_hook(selector)
    selector.positions = positions
    try:
        yield
    finally:
        selector.positions = None


class _PositionSelector:
    """Hook that stays registered and outside the compiled graph; a new hook per batch would recompile each time."""

    positions: Tensor | None = None

    @torch.compiler.disable
    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self.positions is None:
            return None
        return (inputs[0].flatten(0, 1).index_select(0, self.positions)[None],)
