"""Rows of a text log, from its lines by template: which of them are readings, and where in the run they belong."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from harness.importers.metric_aliases import BARE_SPLIT_TIER, TOKENS, TRAIN_WORDS, VAL_WORDS
from harness.importers.numbers import MISSING
from harness.importers.rows import Row
from harness.importers.text.columns import LineNumber
from harness.importers.text.inheritance import Entry, Position, inherit_positions, set_lengths
from harness.importers.text.lines import LogLines
from harness.importers.text.positions import find_free_step, place_templates
from harness.importers.text.readings import Form, choose_readings, use_parts_as_losses
from harness.importers.text.templates import Template

CONTEXT_LINES = 3
"""A heading such as "Validation" holds for so many lines below it that do not say what they were measured on."""
MEAN_WORDS = frozenset(("avg", "average", "mean"))


def build_rows(log: LogLines, path: Path) -> tuple[list[Row], str]:
    """Return the rows in the order of the log, and what was taken for the step; no rows if the log has no losses."""
    _restore_decimal_commas(log)
    placements = place_templates(log.templates)
    forms = [
        Form(template, placement, len(template), bool(template.losses()))
        for template, placement in zip(log.templates, placements, strict=True)
    ]
    note = use_parts_as_losses(forms)
    _find_free_steps(forms)
    start = choose_readings(forms)
    readings = [form for form in forms if form.is_reading and form.has_loss]
    if not readings:
        return [], ""
    _name_values(forms)
    entries, positions = _read_entries(log, forms, start, path)
    for what in ("step", "epoch"):
        inherit_positions(entries, positions, what)
    set_lengths(entries)
    return [entry.row for entry in entries], note + _describe_steps(entries)


def _restore_decimal_commas(log: LogLines) -> None:
    """Read 3,962 as 3.962 in a log that has decimal commas, except where something is counted."""
    if log.commas <= log.points:
        return
    for template in log.templates:
        for place in template.ambiguous:
            index = place % len(template.indexes)
            if not template.counts[index]:
                template.values[place] /= 1000
                template.decimals.add(template.indexes[index])


def _find_free_steps(forms: Sequence[Form]) -> None:
    """Use a number without a name as the step, or the epoch, where no losses have a step with a name."""
    if any(form.has_loss and form.placement.step and not form.template.is_code for form in forms):
        return
    for form in forms:
        epochs = form.placement.epoch and form.template.column_values(form.placement.epoch.index)
        if not form.has_loss or form.template.is_code or (epochs and len(set(epochs)) > 0.9 * len(epochs)):
            continue
        column = find_free_step(form.template)
        if column and _counts_epochs(form.template, column):
            form.placement.epoch = column
        elif column:
            form.placement.step = column


def _counts_epochs(template: Template, column: LineNumber) -> bool:
    """Return whether a number without a name grows by one beside mean losses, as in a line printed after each epoch."""
    values = template.column_values(column.index)
    is_mean = any(MEAN_WORDS & set(loss.name.split("_")) for loss in template.losses())
    return is_mean and all(second - first == 1 for first, second in pairwise(values))


def plain_name(name: str) -> str:
    """Return a name with the split first and in one form, so that `training loss` and `loss/train` are the same."""
    words = name.split("_")
    splits = [
        "train" if word in TRAIN_WORDS else "test" if word.startswith("test") else "val"
        for word in words
        if word in TRAIN_WORDS | VAL_WORDS
    ]
    rest = [word for word in words if word not in TRAIN_WORDS | VAL_WORDS] or ["loss"]
    return "_".join([*splits[-1:], *rest])


def _name_values(forms: Sequence[Form]) -> None:
    """Set the names of the values. The loss of an epoch has another name than those of its steps.

    Beside a training loss that is not the most frequent one, such as the mean of an epoch, nothing else is read.
    """
    readings = [form for form in forms if form.is_reading]
    with_train = [form for form in readings if form.has_train_loss]
    by_step = any(form.placement.step for form in with_train)
    counts: Counter[str] = Counter()
    for form in with_train:
        counts[form.train_name] += form.n_lines
    main_name = max(counts, key=counts.__getitem__, default="")
    usual = {
        column.metric
        for form in with_train
        if form.train_name == main_name
        for column in form.template.columns
        if column.metric in ("train/lr", "train/grad_norm", TOKENS)
    }
    named = [{loss.metric for loss in form.template.losses() if loss.order < BARE_SPLIT_TIER} for form in readings]
    for form in readings:
        is_summary = by_step and form.placement.step is None and form.placement.epoch is not None
        metrics = {loss.metric for loss in form.template.losses()}
        for column in form.template.columns:
            if column.role != "metric" or (
                form.has_train_loss and column.metric in usual and form.train_name != main_name
            ):
                continue
            is_alone = (
                column.order == BARE_SPLIT_TIER
                and any(column.metric in other for other in named)
                and metrics not in named
            )
            is_loss = (column.metric or "").endswith(("/loss", "/ppl"))
            name = plain_name(column.name) if is_loss and not is_alone else column.name
            form.names[column.index] = f"epoch_{name}" if is_summary and column.metric == "train/loss" else name


@dataclass
class _Heading:
    """The latest heading, such as "Validation" or "Training | Validation"."""

    context: str | None = None
    is_pair: bool = False
    step: float | None = None
    epoch: float | None = None
    age: int = CONTEXT_LINES + 1

    def holds(self) -> bool:
        return self.age <= CONTEXT_LINES


def _read_entries(log: LogLines, forms: Sequence[Form], start: int, path: Path) -> tuple[list[Entry], list[Position]]:
    """Return the rows, and the positions that other lines name."""
    entries: list[Entry] = []
    positions: list[Position] = []
    heading = _Heading()
    cursors = [0] * len(forms)
    for sequence, (at, number, rank) in enumerate(zip(log.order, log.numbers, log.ranks, strict=True)):
        form, line = forms[at], cursors[at]
        cursors[at] += 1
        template = form.template
        heading.age += 1
        if not template.columns or not form.is_reading or (not form.has_position and number < start):
            position = _read_position(form, line, sequence) if form.is_position else None
            if template.context or not template.columns:
                is_pair = template.is_pair or (heading.is_pair and heading.holds())
                step = position.step if position and position.step_of is None else None
                heading = _Heading(template.context, is_pair, step, position.epoch if position else None, 0)
            if position and template.context not in ("val", "test"):
                positions.append(position)
            continue
        entry = _read_entry(form, line, sequence, heading)
        entry.row.location = f"{path}, line {number}"
        if rank >= 0 and entry.row.rank is None:
            entry.row.rank = str(rank)
        is_lost = form.placement.step is not None and entry.row.step is None  # its step is nan
        if is_lost and entry.row.epoch is None:
            continue
        if form.has_position and not form.has_loss:
            positions.append(_read_position(form, line, sequence))
        if form.needs_heading and not _needs_no_heading(entry):
            continue
        if not entry.row.values:
            positions.append(_read_position(form, line, sequence))
        elif entries and _replaces(entry, entries[-1]):
            entries[-1] = entry
        else:
            entries.append(entry)
        if form.has_position and heading.holds():
            heading = _Heading()
    return entries, positions


def _read_entry(form: Form, line: int, sequence: int, heading: _Heading) -> Entry:
    numbers = form.line_values(line)
    step, epoch, step_of, epoch_of = _read_slots(form, numbers)
    values: dict[str, float] = {}
    row = Row(values, step, epoch)
    is_below = not form.has_position and heading.holds()
    for slot, name, column in form.metric_slots:
        value = numbers[slot]
        if value == MISSING:
            continue
        if is_below and heading.context and column.metric == "train/loss" and not name.startswith("train_"):
            name = name if heading.is_pair else f"{heading.context}_{name}"
        if column.is_summed:
            values[name] = values.get(name, 0.0) + value
        elif name not in values:
            values[name] = value
    for slot, column in form.other_slots:
        if numbers[slot] != MISSING:
            _add_other(row, column, numbers[slot], form, heading)
    if is_below and heading.context in ("val", "test"):
        row.step, row.epoch = heading.step, heading.epoch
    return Entry(sequence, row, form, step_of, epoch_of)


def _add_other(row: Row, column: LineNumber, value: float, form: Form, heading: _Heading) -> None:
    """Add a number that is no metric of the line itself."""
    if column.role == "mean" and form.placement.is_progress:
        row.values[plain_name(column.name)] = value
    elif column.role == "second" and heading.is_pair:
        row.values[f"val_{plain_name(column.name)}"] = value
    elif column.role == "rank":
        row.rank = f"{value:g}"
    elif column.role in ("total_steps", "total_epochs"):
        setattr(row, column.role, value)


def _read_position(form: Form, line: int, sequence: int) -> Position:
    step, epoch, step_of, epoch_of = _read_slots(form, form.line_values(line))
    names = tuple(column.name if column else None for column in (form.placement.step, form.placement.epoch))
    group = (form.template.description, step_of) if form.template.is_bar else names
    return Position(sequence, form, group, step, epoch, step_of, epoch_of)


def _read_slots(form: Form, numbers: Sequence[float]) -> tuple[float | None, float | None, float | None, float | None]:
    """Return step and epoch, and the N of each, None where they are missing or not finite."""
    step, epoch, step_of, epoch_of = (None if slot is None else numbers[slot] for slot in form.position_slots)
    return (
        step if step is not None and MISSING < step < math.inf else None,
        epoch if epoch is not None and MISSING < epoch < math.inf else None,
        step_of if step_of is not None and step_of > MISSING else None,
        epoch_of if epoch_of is not None and epoch_of > MISSING else None,
    )


def _needs_no_heading(entry: Entry) -> bool:
    """Return whether a loss without a position was measured on the validation data, or is not finite."""
    return any(
        name.startswith(("val_", "test_")) or not math.isfinite(value) for name, value in entry.row.values.items()
    )


def _replaces(entry: Entry, before: Entry) -> bool:
    """Return whether an entry is the next state of the line before: a bar at the same step, or within an evaluation."""
    if entry.form is not before.form or entry.row.rank != before.row.rank:
        return False
    if entry.form.placement.is_progress:
        return True
    is_same = (entry.row.step, entry.row.epoch) == (before.row.step, before.row.epoch)
    return is_same and entry.row.step is not None and entry.form.template.is_bar


def _describe_steps(entries: Sequence[Entry]) -> str:
    """Return which number was taken for the step, for lines whose step has no name."""
    columns = [entry.form.placement.step for entry in entries if entry.form.placement.step is not None]
    return (
        ", steps from a number without a name" if columns and all(column.role == "free" for column in columns) else ""
    )
