"""The parts of a batch that are targets: the loss depends on them, and the model's output does not."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.preflight.batch_rows import find_target, list_children, replace_part
from harness.preflight.outputs import record_outputs
from harness.preflight.probe import affordable_tokens, subsample_batch
from harness.preflight.training_setup import TrainingSetup


@torch.no_grad()
def find_loss_targets(setup: TrainingSetup) -> list[str]:
    """Return the names of the tensors at the top level of a batch that change the loss and not the output.

    Each is mirrored within its range over all batches, which keeps classes and padding valid. If the loss is computed
    inside the model, only a part with a usual name, or the second of two, can be told from an input.
    """
    batches = [subsample_batch(setup, batch, affordable_tokens(setup.model)) for batch in setup.batches]
    batch, named = batches[0], find_target(batches[0])
    found = []
    with eval_mode(setup.model):
        before = _compute_both(setup, batch)
        for name, part in list_children(batch):
            if before is None or not isinstance(part, Tensor) or part.is_complex():
                continue
            changed = _mirror_values(part, [dict(list_children(other)).get(name) for other in batches])
            after = None if changed is None else _compute_both(setup, replace_part(batch, str(name), changed))
            if after is None or after[0] == before[0] or not _are_alike(before[1], after[1]):
                continue
            if before[1] or (named is not None and named[0] == str(name)):
                found.append(str(name))
    return found


def read_part(batch: Any, name: str) -> Any:
    """Return a part at the top level of a batch by its name, or None."""
    return {str(key): part for key, part in list_children(batch)}.get(name)


def _compute_both(setup: TrainingSetup, batch: Any) -> tuple[float, list[Tensor]] | None:
    """Return the loss and the model's outputs, or None if the batch cannot be used."""
    torch.manual_seed(0)
    with suppress(Exception):
        loss, outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))
        return loss.item(), outputs
    return None


def _are_alike(outputs: Sequence[Tensor], others: Sequence[Tensor]) -> bool:
    return len(outputs) == len(others) and all(
        one.shape == other.shape and torch.equal(one, other) for one, other in zip(outputs, others, strict=True)
    )


def _mirror_values(part: Tensor, same_parts: Sequence[Any]) -> Tensor | None:
    """Return low + high - value, or None if nothing changes; negative integers mark what is not scored, and stay."""
    values = torch.cat([other.flatten() for other in same_parts if isinstance(other, Tensor)])
    is_kept = torch.zeros_like(part, dtype=torch.bool)
    if part.dtype == torch.bool:
        return ~part
    if not part.is_floating_point():
        values, is_kept = values[values >= 0], part < 0
    if not values.numel():
        return None
    changed = (values.min() + values.max() - part).where(~is_kept, part)
    return None if torch.equal(changed, part) else changed.to(part.dtype)


def list_targets(setup: TrainingSetup, batch: Any) -> list[tuple[str, Tensor]]:
    """Return the targets of a batch with their names: the part with a usual name, or all that change the loss alone.

    Labels of text come without a name, at the position of the logits that they belong to.
    """
    if setup.text is not None:
        tokens = setup.text.read_tokens(batch)
        is_shifted = setup.is_causal and not setup.text.label_shift
        return [("", tokens.labels.roll(-1, 1) if is_shifted else tokens.labels)]
    found = find_target(batch)
    parts = [found] if found else [(name, read_part(batch, name)) for name in find_loss_targets(setup)]
    return [(name, part) for name, part in parts if isinstance(part, Tensor)]
