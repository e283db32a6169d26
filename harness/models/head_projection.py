"""The head of a language model, by far its widest layer, asked for no more than is needed."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def find_output_head(model: nn.Module) -> nn.Module:
    """What turns a position's features into logits: all of LTG-BERT's head, of transformers' the last layer."""
    return getattr(model, "prediction_head", None) or model.get_output_embeddings()


@contextmanager
def project_only(positions: Tensor, head: nn.Module) -> Iterator[None]:
    """The head projects these positions of the flattened batch and no others: logits of shape [1, positions, ...]."""
    selections = [hook for hook in head._forward_pre_hooks.values() if isinstance(hook, _PositionSelector)]
    selection = selections[0] if selections else _PositionSelector()
    if not selections:
        head.register_forward_pre_hook(selection)
    selection.positions = positions
    try:
        yield
    finally:
        selection.positions = None


class _PositionSelector:
    """Stays on the head for good, and out of its graph: a hook of each batch's own compiles a model anew each time."""

    positions: Tensor | None = None

    @torch.compiler.disable
    def __call__(self, module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        if self.positions is None:
            return None
        return (inputs[0].flatten(0, 1).index_select(0, self.positions)[None],)
