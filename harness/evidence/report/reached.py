"""When runs first reached a validation loss: tokens, steps and time, as exactly as their evaluations show."""

from collections.abc import Sequence

import numpy as np

from harness.evidence.comparing.loss_curves import count_in_log_unit
from harness.evidence.comparing.reached_losses import ReachedLoss, Span, choose_threshold, find_reached
from harness.evidence.report.diagnosed import NamedRun
from harness.evidence.report.document import Bare, Name, Paragraph, ReportSection, ReportTable, Text
from harness.evidence.report.numbers import NumberBook, Reading, Style
from harness.evidence.report.phrases import DASH, make_id

QUANTITIES: tuple[tuple[str, str, Style], ...] = (
    ("tokens", "tokens", "count"), ("steps", "", "whole"), ("seconds", "s", "duration")
)  # fmt: skip


def tabulate_reached(book: NumberBook, runs: Sequence[NamedRun], unit: str) -> ReportSection:
    """Return when each run first reached the highest of their best losses, rounded up."""
    title = "Tokens, steps and time to reach a loss"
    threshold = choose_threshold([run.history for run in runs])
    if threshold is None:
        return ReportSection("reached", title, (Paragraph(("Fewer than two of the runs have a validation loss.",)),))
    note = "the highest of the best losses, rounded up"
    place = ", ".join(run.place for run in runs)
    loss = book.read("reached.loss", threshold, unit, Reading(place, "val/loss", None, note), "loss")
    found = [find_reached(run.history, threshold) for run in runs]
    rows = []
    counted = {run.history.facts.steps_unit for run in runs}
    for name, word, style in QUANTITIES:
        if any(getattr(one, name) for one in found) and not (name == "steps" and len(counted) > 1):
            cells = [_format_span(book, run, one, name, word, style) for run, one in zip(runs, found, strict=True)]
            rows.append(((Name(min(counted)) if name == "steps" else name,), *cells))
    grid: Text = (
        "Validation loss of at most ", loss, ", ", note, ". A span lies between two evaluations: the loss was reached "
        "after the first and by the second, and nothing is interpolated.",
    )  # fmt: skip
    table = ReportTable((("",), *((Name(run.name),) for run in runs)), tuple(rows))
    return ReportSection("reached", title, (Paragraph(grid), table))


def _format_span(book: NumberBook, run: NamedRun, reached: ReachedLoss, name: str, unit: str, style: Style) -> Text:
    if reached.steps is None:
        return ("never",) if len(run.history["val/loss"]) else DASH
    span: Span | None = getattr(reached, name)
    if span is None:
        return DASH
    if name == "steps":  # or what the log counts
        counts = count_in_log_unit(run.history, np.array([span.by if span.after is None else span.after, span.by]))
        span = Span(None if span.after is None else float(counts[0]), float(counts[1]))
        style = "whole" if run.history.facts.steps_unit != "epochs" else "plain"
    step = round(reached.steps.by)
    id = make_id("reached", run.name, name)
    by = book.read(f"{id}.by", span.by, unit, Reading(run.place, name, step, "first evaluation at or below"), style)
    if span.after is None:
        return ("by ", Bare(by))
    note = "last evaluation above"
    after = book.read(f"{id}.after", span.after, unit, Reading(run.place, name, None, note), style)
    return (Bare(after), " to ", Bare(by))
