"""Check what the model sees: nothing of what it is to predict, and the rest of the context."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.batch_rows import TARGET_NAMES, list_children, replace_part, select_rows
from harness.preflight.operations import combines_positions
from harness.preflight.outputs import record_outputs, relative_change
from harness.preflight.probe import NEEDS_TEXT, affordable_tokens, measure_resolution, subsample_batch
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.targets import read_part
from harness.preflight.text_format import hides_tokens
from harness.preflight.training_setup import TrainingSetup

TOLERANCE = 1e-4  # relative change of the logits that the order of float32 additions may cause
MAX_LABEL_ROWS = 8
REWARDED_SHARE = 0.9  # of the scored positions


def check(setup: TrainingSetup) -> Iterator[Finding]:
    setup.perturb_weights()  # a head or branches initialized to 0 would hide what the model sees
    with torch.no_grad(), eval_mode(setup.model):
        yield from _check_labels_are_hidden(setup)
        if setup.text is None:
            yield skipped("attention", NEEDS_TEXT)
            return
        batch = subsample_batch(setup, setup.batches[0], affordable_tokens(setup.model))
        logits = setup.compute_logits(batch).float()
        is_real = setup.text.read_tokens(batch).is_real
        if not torch.isfinite(logits[is_real]).all() or logits.std(-1)[is_real].mean().item() == 0:
            yield skipped("attention", "needs finite logits that differ")
            return
        yield from _check_direction(setup, batch, logits, max(TOLERANCE, 4 * measure_resolution(setup, batch)))


def _check_labels_are_hidden(setup: TrainingSetup) -> Iterator[Finding]:
    """Change the label at one position; the output there and before it must not change, as in teacher forcing."""
    found = _find_rewarded_part(setup)
    if found is None:
        return
    batch, name, distance, is_scored = found
    labels = read_part(batch, name)
    places = is_scored.sum(0).nonzero()[:, 0]
    position = int(places[len(places) // 2])
    replacement = labels[is_scored].roll(1)[: int(is_scored[:, position].sum())]
    changed = labels.clone()
    changed[is_scored[:, position], position] = replacement

    def output(values: Tensor) -> Tensor | None:
        torch.manual_seed(0)
        other = replace_part(batch, name, values)
        outputs = record_outputs(setup.model, lambda: setup.compute_loss(other))[1]
        return outputs[0] if len(outputs) == 1 else None

    before, after = output(labels), output(changed)
    if before is None or after is None or before.shape != after.shape or torch.equal(labels, changed):
        return
    change = relative_change(before, after)[:, : position - distance + 1].max().item()
    tolerance = max(TOLERANCE, 4 * torch.finfo(before.dtype).eps)
    observed = f"changing a label changes the output at its position by {change:.1e} of the spread"
    hint = "The model's input contains the label that it is to predict; shift the decoder's inputs right by one token"
    yield passed_if(
        change <= tolerance, "labels", observed, f"at most {tolerance:.0e}, as they are to be predicted", hint
    )


def _find_rewarded_part(setup: TrainingSetup) -> tuple[Any, str, int, Tensor] | None:
    """Return (batch of few rows, name of the part whose tokens the loss rewards, distance from output to label, where).

    The distance is 1 if the output for a position is scored against the next token of that part, as of a decoder that
    gets all but the last token. Text that a model reads and predicts is left to the check of directions.
    """
    first = setup.batches[0]
    read = setup.text.read_tokens(first).inputs if setup.text is not None else None
    names = [str(name) for name, part in list_children(first) if _is_token_matrix(part) and part is not read]
    if not names or (len(names) == 1 and names[0] not in TARGET_NAMES):
        return None  # a model that restores its own input sees it by design
    batch = select_rows(first, slice(0, MAX_LABEL_ROWS), len(read_part(first, names[-1])))
    with torch.enable_grad():
        loss, outputs = record_outputs(setup.model, lambda: setup.compute_loss(batch))
        if len(outputs) != 1 or outputs[0].ndim != 3 or not (outputs[0].requires_grad and loss.requires_grad):
            return None
        [gradient] = torch.autograd.grad(loss, outputs[0], allow_unused=True)
    if gradient is None or not torch.isfinite(outputs[0]).all() or not torch.isfinite(gradient).all():
        return None
    has_gradient, rewarded = gradient.abs().amax(-1) > 0, gradient.argmin(-1)
    for distance in (0,) if setup.text is not None else (0, 1):
        for name in names:
            labels = read_part(batch, name)
            width = min(rewarded.shape[1], labels.shape[1] - distance)
            if len(labels) != len(rewarded) or rewarded.shape[1] + distance < labels.shape[1]:
                continue
            is_scored = torch.zeros_like(labels, dtype=torch.bool)
            is_scored[:, distance : distance + width] = has_gradient[:, :width]
            agrees = labels[:, distance : distance + width] == rewarded[:, :width]
            if is_scored.any() and agrees[has_gradient[:, :width]].float().mean() >= REWARDED_SHARE:
                return batch, name, distance, is_scored
    return None


def _is_token_matrix(part: Any) -> bool:
    """Return whether a part of a batch may hold tokens, [rows, tokens]; a mask does not."""
    is_integer = isinstance(part, Tensor) and part.ndim == 2 and part.dtype in (torch.int64, torch.int32, torch.int16)
    return is_integer and part.numel() > 0 and bool(part.max() > 1)


def _check_direction(setup: TrainingSetup, batch: Any, logits: Tensor, tolerance: float) -> Iterator[Finding]:
    """Replace single tokens and check which logits change: those after the token, those before it, or both.

    Before it, only logits that are scored count: the prompt of a prefix LM may see all of itself.
    """
    assert setup.text is not None
    tokens = setup.text.read_tokens(batch)
    is_scored = _find_scored_logits(setup, tokens.labels)
    change_before = change_after = None
    for position in _choose_positions(setup, tokens.labels, tokens.is_real):
        changed = tokens.inputs.clone()
        neighbors = tokens.inputs.roll(1, 1)[:, position]
        changed[:, position] = neighbors.where(neighbors != tokens.inputs[:, position], tokens.inputs[:, 0])
        is_changed = (changed[:, position] != tokens.inputs[:, position]) & tokens.is_real[:, position]
        other = setup.compute_logits(setup.text.make_batch(replace(tokens, inputs=changed))).float()
        change = relative_change(logits, other)
        later = change[:, position + 1 :][is_changed[:, None] & tokens.is_real[:, position + 1 :]]
        earlier = change[:, :position][is_changed[:, None] & is_scored[:, :position]]
        change_after = max([change_after or 0.0, later.max().item()]) if later.numel() else change_after
        change_before = max([change_before or 0.0, earlier.max().item()]) if earlier.numel() else change_before
    width = tokens.inputs.shape[1]
    has_context = combines_positions(setup.model, lambda: setup.compute_logits(batch), width)
    yield from _judge_direction(setup, change_before, change_after, tolerance, has_context)


def _judge_direction(
    setup: TrainingSetup, before: float | None, after: float | None, tolerance: float, has_context: bool
) -> Iterator[Finding]:
    """Judge the largest change before and after a token; a model that uses the current token alone only warns."""
    if before is None and after is None:
        yield skipped("attention", "needs rows of several tokens")
        return
    observed = "replacing a token changes the {} logits {} it by {:.1e} of their spread"
    assert setup.text is not None
    hidden, visible = (
        f"at most {tolerance:.0e}, as they are to be predicted",
        f"more than {tolerance:.0e}, as they are visible",
    )
    if setup.is_causal and before is not None:
        hint = (
            "The model sees the tokens that it is to predict. Look at the causal mask (is_causal=True, a mask added to "
        )
        hint += "the scores before a softmax over the keys), or set is_causal=False if labels are not the next tokens"
        seen = observed.format("scored", "before", before)
        yield passed_if(before <= tolerance, "later tokens", seen, hidden, hint)
    elif before is not None:
        hint = "A masked model sees both sides: look for a causal mask"
        is_meant = has_context and hides_tokens(setup.model, [setup.text.read_tokens(batch) for batch in setup.batches])
        if not is_meant:
            hint = "If the model should see both sides, look for a causal mask or a recurrent layer of one direction"
        seen = observed.format("scored", "before", before)
        yield _judge_visible(before > tolerance, "later tokens", seen, visible, hint, is_meant)
    if after is not None:
        hint = "Look at the attention mask: it may be inverted or hide every other token"
        if not has_context:
            hint = "The model uses the current token alone; it has no attention, recurrence or convolution"
        seen = observed.format("", "after", after).replace("  ", " ")
        yield _judge_visible(after > tolerance, "earlier tokens", seen, visible, hint, has_context)


def _judge_visible(is_visible: bool, title: str, observed: str, expected: str, hint: str, is_meant: bool) -> Finding:
    """Return a failure for context that the model is known to use and does not see, and a warning otherwise."""
    result = passed if is_visible else failed if is_meant else warned
    return result(title, observed, expected, hint)


def _find_scored_logits(setup: TrainingSetup, labels: Tensor) -> Tensor:
    """Return which logits the loss scores, [rows, tokens]."""
    is_scored = labels != IGNORE_INDEX
    assert setup.text is not None
    if setup.is_causal and not setup.text.label_shift:
        is_scored = is_scored.roll(-1, 1)
        is_scored[:, -1] = False
    return is_scored


def _choose_positions(setup: TrainingSetup, labels: Tensor, is_real: Tensor) -> list[int]:
    """Return a few positions over the real part of most rows; of a masked model, where few tokens are masked."""
    counts = is_real.sum(0)
    usable = (counts >= 0.5 * counts.max()).nonzero()[:, 0]
    if not setup.is_causal:
        shown = ((labels == IGNORE_INDEX) & is_real).sum(0)[usable]
        usable = usable[shown >= shown.float().median()]
    return sorted({int(usable[len(usable) * quarter // 4]) for quarter in (1, 2, 3)})
