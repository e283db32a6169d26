"""Check that padding does not change the output: a row in its batch and the same row without its padding agree."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.preflight.batch_rows import cut_columns, select_rows
from harness.preflight.outputs import SHAPE_TOLERANCE, relative_change
from harness.preflight.probe import MIN_TOKENS, measure_resolution, record_single_output, subsample_batch
from harness.preflight.report import Finding, passed_if, skipped
from harness.preflight.text_format import LabeledTokens
from harness.preflight.training_setup import TrainingSetup


def check(setup: TrainingSetup) -> Iterator[Finding]:
    setup.perturb_weights()  # a head or branches initialized to 0 would hide what the model sees
    with torch.no_grad(), eval_mode(setup.model):
        batch = subsample_batch(setup, setup.batches[0], MIN_TOKENS)
        yield _check_padding(setup, max(SHAPE_TOLERANCE, 4 * measure_resolution(setup, batch)))


def _check_padding(setup: TrainingSetup, tolerance: float) -> Finding:
    """Compare a row without its padding with the same row in its batch."""
    title, needs = "padding", "needs a batch with padding"
    found = _find_padded_row(setup)
    if found is None:
        return skipped(title, needs)
    batch, row, is_real, is_given = found
    positions = is_real[row].nonzero()[:, 0]
    first, last = int(positions[0]), int(positions[-1]) + 1
    width, kept = is_real.shape[1], is_real[row, first:last]
    try:
        padded = select_rows(batch, slice(row, row + 1), len(is_real))
        stripped = _strip_row(setup, batch, row, slice(first, last), is_real)
        whole, alone = record_single_output(setup, padded), record_single_output(setup, stripped)
    except Exception:
        return skipped(title, "needs a model that takes rows of other widths")
    if whole is None or alone is None:  # the loss may be computed inside the model
        losses = [setup.compute_loss(each) for each in (padded, stripped)]
        whole, alone = (loss.detach().float().view(1, 1) for loss in losses)
    if not torch.isfinite(whole).all():
        return skipped(title, "needs finite output")
    if whole.ndim >= 3 and whole.shape[1] == width and alone.shape[1] == last - first:
        change = relative_change(whole, _insert_columns(alone, whole, first))[0, first:last][kept].max().item()
    elif whole.ndim == 2 and whole.shape == alone.shape:
        scale = record_single_output(setup, batch)
        spread = whole.abs() if scale is None else scale.float().std()
        change = ((whole - alone).float().abs().max() / spread).max().item()
    else:
        return skipped(title, "needs one output for each token or row")
    padding = width - (last - first)
    observed = f"removing {padding} tokens of padding from a row changes its output by {change:.1e} of the spread"
    hint = "Check that the attention mask (1 for a real token, 0 for padding) reaches the model, and that position ids "
    hint += "do not count padding on the left"
    if not is_given:
        hint = f"The batch has no attention_mask (removed as an unused column?). {hint}"
    return passed_if(change <= tolerance, title, observed, f"at most {tolerance:.0e}", hint)


def _insert_columns(part: Tensor, whole: Tensor, first: int) -> Tensor:
    """Return a copy of `whole` in which `part` stands at `first`."""
    padded = whole.clone()
    padded[:, first : first + part.shape[1]] = part
    return padded


def _find_padded_row(setup: TrainingSetup) -> tuple[Any, int, Tensor, bool] | None:
    """Return (batch, its row with the most padding, what is real in the batch, whether the batch says so)."""
    best: tuple[int, Any, int, Tensor, bool] | None = None
    for batch in setup.batches:
        is_real = _read_mask(setup, batch)
        is_given = is_real is not None and not bool(is_real.all())
        if not is_given:
            is_real = _guess_mask(setup, batch)
        if is_real is None or is_real.all():
            continue
        padding = (~is_real).sum(1).where(is_real.sum(1) >= 2, 0)
        row = int(padding.argmax())
        if padding[row] > 0 and (best is None or padding[row] > best[0]):
            best = (int(padding[row]), batch, row, is_real, is_given)
    return best and best[1:]


def _read_mask(setup: TrainingSetup, batch: Any) -> Tensor | None:
    if setup.text is not None:
        return setup.text.read_tokens(batch).is_real
    if not isinstance(batch, Mapping) or "input_ids" not in batch:
        return None
    mask, ids = batch.get("attention_mask"), batch["input_ids"]
    return mask.bool() if isinstance(mask, Tensor) and mask.shape == ids.shape and ids.ndim == 2 else None


def _guess_mask(setup: TrainingSetup, batch: Any) -> Tensor | None:
    """Return what is not a run of the model's padding token at the end or at the start of a row, or None."""
    pad_id = getattr(getattr(setup.model, "config", None), "pad_token_id", None)
    if setup.text is not None:
        ids = setup.text.read_tokens(batch).inputs
    elif isinstance(batch, Mapping) and isinstance(batch.get("input_ids"), Tensor) and "attention_mask" not in batch:
        ids = batch["input_ids"]
    else:
        return None
    if pad_id is None or ids.ndim != 2:
        return None
    is_pad = ids == pad_id
    is_real = torch.ones_like(is_pad)
    for flipped in (False, True):
        run = (is_pad.flip(1) if flipped else is_pad).long().cumprod(1).bool()
        lengths = run.sum(1)
        if len(lengths.unique()) > 1 and int(lengths.max()) >= 2:  # not a token that begins or ends every row
            is_real &= ~(run.flip(1) if flipped else run)
    return is_real


def _strip_row(setup: TrainingSetup, batch: Any, row: int, columns: slice, is_real: Tensor) -> Any:
    shape = (is_real.shape[0], is_real.shape[1])
    if isinstance(batch, Mapping) or setup.text is None:
        return cut_columns(batch, row, columns, shape)
    tokens = setup.text.read_tokens(batch)
    inputs, labels, real = (each[row : row + 1, columns] for each in (tokens.inputs, tokens.labels, tokens.is_real))
    others = cut_columns(dict(tokens.columns), row, columns, shape)
    return setup.text.make_batch(LabeledTokens(inputs, labels, real, others))
