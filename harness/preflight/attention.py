"""Check the attention masks: padding and, in a causal model, later tokens have no effect; all other tokens do."""

from collections.abc import Iterator

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.data.tokens import IGNORE_INDEX
from harness.preflight.probe import (
    NEEDS_TEXT,
    affordable_tokens,
    extract_text_rows,
    make_text_batch,
    measure_resolution,
)
from harness.preflight.report import Finding, passed_if, skipped
from harness.preflight.training_setup import TextFormat, TrainingSetup

PAD_TOKENS = 4  # tokens of padding that are appended
TOLERANCE = 1e-4  # relative change of logits and loss that the order of float32 additions may cause


def check(setup: TrainingSetup) -> Iterator[Finding]:
    text = setup.text
    if text is None:
        yield skipped("attention", NEEDS_TEXT)
        return
    rows = extract_text_rows(setup, text, affordable_tokens(setup.model))
    setup.perturb_weights()  # a head or branches initialized to 0 would hide what the model sees
    with torch.no_grad(), eval_mode(setup.model):
        batch = make_text_batch(text, rows)
        if text.logits(setup.model, batch).float().std(-1).mean().item() == 0:
            yield skipped("attention", "needs logits that differ; all of them are equal")
            return
        tolerance = max(TOLERANCE, 4 * measure_resolution(setup, batch))
        yield from _check_padding(setup, text, rows, tolerance)
        yield from _check_attention_direction(setup, text, rows, tolerance)


def _check_padding(setup: TrainingSetup, text: TextFormat, rows: Tensor, tolerance: float) -> Iterator[Finding]:
    """Compare logits and loss of rows with and without padding."""
    pad_id = _find_pad_id(setup, text)
    if pad_id is None:
        yield skipped("padding", "needs a batch with padding")
        return
    widest = max(text.read(batch).inputs.shape[1] for batch in setup.batches)
    rows = rows[:, : max(PAD_TOKENS, widest - PAD_TOKENS)]  # padded rows must not exceed the model's maximum width
    plain, padded = make_text_batch(text, rows), make_text_batch(text, rows, pad_id, PAD_TOKENS)
    width = rows.shape[1] - text.label_shift
    logits, padded_logits = text.logits(setup.model, plain), text.logits(setup.model, padded)[:, :width]
    change = _relative_change(logits, padded_logits).max().item()
    yield passed_if(
        change <= tolerance,
        "padding and logits",
        f"{PAD_TOKENS} tokens of padding change the logits by {change:.1e} of their spread",
        f"at most {tolerance:.0e}",
        "Check that the attention mask (1 for a real token, 0 for padding) is given to the model, and that position "
        "ids do not count padding",
    )
    loss, padded_loss = setup.compute_loss(plain).item(), setup.compute_loss(padded).item()
    yield passed_if(
        abs(padded_loss - loss) <= tolerance * abs(loss),
        "padding and mean loss",
        f"loss {loss:.4f} without padding, {padded_loss:.4f} with {PAD_TOKENS / (width + PAD_TOKENS):.0%} padding",
        "the same loss",
        f"Set the labels of padding to {IGNORE_INDEX}, and divide the sum by the number of scored tokens",
    )


def _check_attention_direction(
    setup: TrainingSetup, text: TextFormat, rows: Tensor, tolerance: float
) -> Iterator[Finding]:
    """Replace single tokens and check which logits change: those after the token, those before it, or both."""
    width = rows.shape[1] - text.label_shift
    logits = text.logits(setup.model, make_text_batch(text, rows))
    change_before = change_after = 0.0
    for position in sorted({width // 4, width // 2, 3 * width // 4}):
        changed, neighbors = rows.clone(), rows.roll(1, 1)[:, position]
        changed[:, position] = neighbors.where(neighbors != rows[:, position], rows[:, 0])
        change = _relative_change(logits, text.logits(setup.model, make_text_batch(text, changed)))
        change_before = max(change_before, change[:, :position].max().item())
        change_after = max(change_after, change[:, position + 1 :].max().item())
    observed = "replacing a token changes the logits {} it by {:.1e} of their spread"
    hint = "Look at the attention mask: it may be inverted or hide every other token"
    yield passed_if(
        change_after > tolerance,
        "earlier tokens",
        observed.format("after", change_after),
        f"more than {tolerance:.0e}, as they are visible",
        hint,
    )
    observed = observed.format("before", change_before)
    if setup.is_causal:
        hint = "Look at the causal mask (is_causal=True, or a mask added to the scores)"
        expected = f"at most {tolerance:.0e}, as they are hidden"
        yield passed_if(change_before <= tolerance, "later tokens", observed, expected, hint)
    else:
        expected = f"more than {tolerance:.0e}, as a masked model sees both sides"
        yield passed_if(change_before > tolerance, "later tokens", observed, expected, hint)
        yield _check_hidden_targets(setup, text)


def _check_hidden_targets(setup: TrainingSetup, text: TextFormat) -> Finding:
    """Check that a model that sees both sides does not see its targets."""
    tokens = text.read(setup.batches[0])
    is_scored = tokens.labels != IGNORE_INDEX
    same = (tokens.labels == tokens.inputs)[is_scored].float().mean().item()
    following = (tokens.labels[:, :-1] == tokens.inputs[:, 1:])[is_scored[:, :-1]].float().mean().item()
    return passed_if(
        max(same, following) <= 0.9,
        "hidden targets",
        f"{max(same, following):.0%} of the targets are visible in the inputs",
        "about 10% for a masked model",
        "Look at the causal mask if the model should predict the next token, otherwise at the masking of the inputs",
    )


def _find_pad_id(setup: TrainingSetup, text: TextFormat) -> int | None:
    for tokens in map(text.read, setup.batches):
        if not tokens.is_real.all():
            return int(tokens.inputs[~tokens.is_real][0])
    return None


def _relative_change(before: Tensor, after: Tensor) -> Tensor:
    """Return the change of the logits at each position, [rows, tokens], relative to their spread."""
    return (before - after).abs().amax(-1).float() / before.float().std(-1).mean()
