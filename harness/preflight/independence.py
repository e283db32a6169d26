"""Check that the output for a row or a packed document depends on no other one."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from harness.core.state import eval_mode
from harness.preflight.batch_rows import (
    count_examples,
    iterate_parts,
    list_children,
    rebuild_batch,
    replace_part,
    select_rows,
)
from harness.preflight.operations import record_operations
from harness.preflight.outputs import SHAPE_TOLERANCE, relative_change
from harness.preflight.probe import affordable_tokens, measure_resolution, record_single_output, subsample_batch
from harness.preflight.report import Finding, failed, passed, passed_if, skipped, warned
from harness.preflight.text_format import LabeledTokens
from harness.preflight.training_setup import TrainingSetup

MIN_ROWS = 4
SEGMENT_NAMES = ("segment_ids", "document_ids", "doc_ids", "sequence_ids", "seq_idx", "document_id")


def check(setup: TrainingSetup) -> Iterator[Finding]:
    setup.perturb_weights()  # a head or branches initialized to 0 would hide what the model sees
    with torch.no_grad(), eval_mode(setup.model):
        batch = subsample_batch(setup, setup.batches[0], 4 * affordable_tokens(setup.model))
        tolerance = max(SHAPE_TOLERANCE, 4 * measure_resolution(setup, batch))
        yield _check_rows(setup, tolerance)
        yield from _check_documents(setup, tolerance)


def _check_rows(setup: TrainingSetup, tolerance: float) -> Finding:
    """Replace every second row by a copy of the row before it; the others must not change."""
    title, batch = "rows", _take_few_rows(setup)
    size = _count_rows(setup, batch)
    if size and any(part.ndim > 1 and part.shape[0] == part.shape[1] == size for _, part in iterate_parts(batch)):
        batch, size = select_rows(batch, slice(0, size - 1), size), size - 1  # no matrix between rows, as of a graph
    if size is None or size < MIN_ROWS:
        return skipped(title, f"needs a batch of {MIN_ROWS} or more rows")
    before = record_single_output(setup, batch)
    after = record_single_output(setup, select_rows(batch, torch.arange(size) // 2 * 2, size))
    if before is None or after is None or before.shape != after.shape or len(before) != size or before.ndim < 2:
        return skipped(title, "needs a loss that calls the model once, with one output for each row")
    if not torch.isfinite(before).all():
        return skipped(title, "needs finite output")
    if before.shape[:2] == (size, size):
        return skipped(title, "needs an output for each row, not for each pair of rows")
    change = relative_change(before, after)[::2]
    observed = f"exchanging other rows changes a row's output by {change.max().item():.1e} of its spread"
    expected = f"at most {tolerance:.0e}"
    if change.max() <= tolerance:
        return passed(title, observed, expected)
    reason = _find_intended_coupling(setup, batch, before, change, tolerance)
    hint = f"{reason}; if that is not meant, look" if reason else "Look"
    hint += " for dimensions in the wrong order (batch_first=True), view for permute, or means over the batch"
    return (warned if reason else failed)(title, observed, expected, hint)


def _find_intended_coupling(setup: TrainingSetup, batch: Any, before: Tensor, change: Tensor, tolerance: float) -> str:
    """Return what in the model couples rows by design, or an empty string."""
    size, parts = len(before), [part for _, part in iterate_parts(batch)]
    operations = record_operations(lambda: setup.compute_loss(batch))
    if operations.makes_choices() and (change <= tolerance).any():
        return "Tokens of all rows compete, as for the capacity of experts"
    if setup.text is None and all(part.ndim <= 2 for part in parts) and operations.has_attention(size):
        return "Rows attend to each other, as the examples of one task do"
    if setup.text is None and _is_second_dimension_independent(setup, batch, before, tolerance):
        return "Batches may be [time, rows, ...], whose second dimension is independent"
    return ""


def _is_second_dimension_independent(setup: TrainingSetup, batch: Any, before: Tensor, tolerance: float) -> bool:
    """Return whether all parts and the output have two dimensions in common, and the second one is the examples'."""
    shape = before.shape[:2]
    parts = [part for _, part in iterate_parts(batch)]
    if len(shape) < 2 or shape[1] < MIN_ROWS or any(tuple(part.shape[:2]) != tuple(shape) for part in parts):
        return False
    index = torch.arange(shape[1]) // 2 * 2

    def take_columns(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[:, index.to(part.device)]
        children = list_children(part)
        return rebuild_batch(part, [take_columns(child) for _, child in children]) if children else part

    after = record_single_output(setup, take_columns(batch))
    if after is None or after.shape != before.shape:
        return False
    other, same = (each.transpose(0, 1).reshape(shape[1], shape[0], -1) for each in (after, before))
    return bool((relative_change(same, other)[::2] <= tolerance).all())


def _take_few_rows(setup: TrainingSetup) -> Any:
    """Return several rows of a batch, of which long ones are cut."""
    batch, max_tokens = setup.batches[0], 4 * affordable_tokens(setup.model)
    if setup.text is None:
        return subsample_batch(setup, batch, max_tokens)
    tokens = setup.text.read_tokens(batch)
    rows, width = tokens.inputs.shape
    if width <= max_tokens // MIN_ROWS or tokens.columns:
        return select_rows(batch, slice(0, max(MIN_ROWS, max_tokens // width)), rows)
    kept = (slice(0, MIN_ROWS), slice(0, max_tokens // MIN_ROWS))
    parts = LabeledTokens(tokens.inputs[kept], tokens.labels[kept], tokens.is_real[kept])
    return setup.text.make_batch(parts)


def _count_rows(setup: TrainingSetup, batch: Any) -> int | None:
    return len(setup.text.read_tokens(batch).inputs) if setup.text is not None else count_examples(batch)


def _check_documents(setup: TrainingSetup, tolerance: float) -> Iterator[Finding]:
    """Replace a token of a packed document; the documents after it must not change."""
    title = "packed documents"
    for batch in setup.batches:
        starts = _find_document_starts(batch)
        if starts is None:
            continue
        ids = batch["input_ids"]
        for row in range(len(ids)):
            borders = starts[row].nonzero()[:, 0].tolist()
            border = next((border for border in borders if border >= 3), None)
            if border is None:
                continue
            changed, position = ids.clone(), border // 2
            changed[row, position] = (
                ids[row, position - 1] if ids[row, position - 1] != ids[row, position] else ids[row, 0]
            )
            one = select_rows(batch, slice(row, row + 1), len(ids))
            before = record_single_output(setup, one)
            after = record_single_output(setup, replace_part(one, "input_ids", changed[row : row + 1]))
            if before is None or after is None or before.ndim < 3 or before.shape[1] != ids.shape[1]:
                return
            change = relative_change(before, after)[0, border:].max().item()
            observed = f"a token before position {border}, where another document begins, changes what follows "
            observed += f"by {change:.1e} of the spread"
            hint = "Give attention a mask within documents: an attention implementation that reads position_ids or "
            hint += "cu_seqlens (flash_attention_2), or a block-diagonal mask"
            yield passed_if(change <= tolerance, title, observed, f"at most {tolerance:.0e}", hint)
            return


def _find_document_starts(batch: Any) -> Tensor | None:
    """Return where a row goes on to another document, from position ids that restart or from ids of documents."""
    if not isinstance(batch, Mapping) or not isinstance(batch.get("input_ids"), Tensor) or batch["input_ids"].ndim != 2:
        return None
    shape = batch["input_ids"].shape
    starts = torch.zeros(shape, dtype=torch.bool)
    positions = batch.get("position_ids")
    if isinstance(positions, Tensor) and positions.shape == shape:
        starts[:, 1:] |= ((positions[:, 1:] == 0) & (positions[:, :-1] > 0)).cpu()
    for name in SEGMENT_NAMES:
        segments = batch.get(name)
        if isinstance(segments, Tensor) and segments.shape == shape:
            starts[:, 1:] |= (segments[:, 1:] != segments[:, :-1]).cpu()
    return starts if starts.any() else None
