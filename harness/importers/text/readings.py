"""Choice of the lines of a log that are readings, among source code, settings and chatter."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import find_short_split, split_words
from harness.importers.numbers import MISSING
from harness.importers.text.columns import BRACKET_ORDER, LineNumber
from harness.importers.text.labels import LAST_RESORTS
from harness.importers.text.positions import Placement, kind_of
from harness.importers.text.templates import Template

MIN_SHARE = 0.3
"""Share of the losses that lines without a loss and a step must reach; settings that are printed are fewer."""
MAX_LEAP = 1.5
"""A line of a kind that occurs once is no reading if its step is so many times the last one of the log."""
RIVALS = split_words("d g disc discriminator gen generator adv adversarial critic actor policy value t v tr va pi q")
"""Losses of these are of several models or splits, and their sum says nothing."""


@dataclass
class Form:
    """A template with what was decided about it."""

    template: Template
    placement: Placement
    n_lines: int
    has_loss: bool
    is_reading: bool = False
    needs_heading: bool = False  # its losses are readings below a heading such as "Validation" only
    names: dict[int, str] = field(default_factory=dict)  # of the values, by the index of their column

    @cached_property
    def has_position(self) -> bool:
        return self.placement.step is not None or self.placement.epoch is not None

    @property
    def is_position(self) -> bool:
        """Return whether its lines may say where the lines around them belong."""
        return self.has_position and not self.template.is_code

    @cached_property
    def has_train_loss(self) -> bool:
        return any(loss.metric == "train/loss" for loss in self.template.losses())

    @property
    def train_name(self) -> str:
        """Name of its first training loss."""
        return next((loss.name for loss in self.template.losses() if loss.metric == "train/loss"), "")

    @cached_property
    def metric_slots(self) -> list[tuple[int, str, LineNumber]]:
        """Return (place among the kept numbers, name, column) of its metrics."""
        return [
            (self.template.indexes.index(column.index), self.names[column.index], column)
            for column in self.template.columns
            if column.role == "metric" and column.index in self.names
        ]

    @cached_property
    def other_slots(self) -> list[tuple[int, LineNumber]]:
        """Return (place among the kept numbers, column) of what rows have besides metrics and positions."""
        roles = ("mean", "second", "rank", "total_steps", "total_epochs")
        found = [column for column in self.template.columns if column.role in roles]
        return [(self.template.indexes.index(column.index), column) for column in found]

    @cached_property
    def position_slots(self) -> tuple[int | None, int | None, int | None, int | None]:
        """Return the places of step, epoch, and the N of each, among the kept numbers."""
        columns = (self.placement.step, self.placement.epoch)
        indexes = [None if column is None else column.index for column in columns]
        indexes += [None if column is None else column.of for column in columns]
        step, epoch, step_of, epoch_of = (
            None if index is None else self.template.indexes.index(index) for index in indexes
        )
        return step, epoch, step_of, epoch_of

    def line_values(self, line: int) -> array:
        """Return the kept numbers of one of its lines."""
        width = len(self.template.indexes)
        return self.template.values[line * width : (line + 1) * width]

    def steps(self) -> list[float]:
        column = self.placement.step or self.placement.epoch
        values = self.template.column_values(column.index) if column else []
        return [value for value in values if value != MISSING]


def choose_readings(forms: Sequence[Form]) -> int:
    """Mark the forms whose lines are readings. Return the line before which lines without a position are none.

    What occurs again and again with a position and a loss is the log. What occurs once is a reading if it agrees with
    that.
    """
    kinds: Counter[tuple[str, ...]] = Counter()
    for form in forms:
        kinds[kind_of(form.template, form.placement)] += form.n_lines
    repeats = {id(form): kinds[kind_of(form.template, form.placement)] > 1 for form in forms}
    placed = [form for form in forms if form.has_loss and form.has_position and not form.template.is_code]
    loose = [form for form in forms if form.has_loss and not form.has_position and not form.template.is_code]
    loose = [form for form in loose if not _is_constant_assignment(form)]
    main = [form for form in placed if repeats[id(form)]] or placed
    n_main = sum(form.n_lines for form in main)
    frequent = [form for form in loose if repeats[id(form)] and form.n_lines >= max(2, n_main)]
    start = min((form.template.first_line for form in (*main, *frequent)), default=0)
    if not main:
        start = _find_first_heading(forms, frequent or loose) if frequent else start
    for form in placed:
        form.is_reading = form in main or _agrees(form, main, start)
    for form in loose:
        is_once = bool(main or frequent) and form.template.first_line > start and not form.template.is_extreme
        form.is_reading = _is_measured(form) and (form.n_lines > 1 or repeats[id(form)] or is_once)
    if not main and not any(form.is_reading for form in loose):
        for form in loose:
            form.is_reading = _is_measured(form)
    _drop_side_losses(placed, loose)
    last = max((form.template.last_line for form in forms if form.is_reading and not form.needs_heading), default=0)
    n_losses = sum(form.n_lines for form in forms if form.is_reading)
    for form in forms:
        if form.template.is_code or form.has_loss or not any(c.role == "metric" for c in form.template.columns):
            continue
        kind_count = kinds[kind_of(form.template, form.placement)]
        if form.has_position:
            form.is_reading = _agrees(form, main, start) or _accompanies(form, main, start)
        else:
            is_amid = start <= form.template.first_line <= last
            form.is_reading = is_amid and kind_count >= max(2, MIN_SHARE * n_losses)
    return start


def _drop_side_losses(placed: Sequence[Form], loose: Sequence[Form]) -> None:
    """Leave out losses that are no part of the curves: of chunks or batches within an evaluation, and without steps."""
    readings = [form for form in placed if form.is_reading]
    for metric in LOSS_METRICS:
        curves = [form for form in readings if any(loss.metric == metric for loss in form.template.losses())]
        named = [form for form in curves if form.placement.step is None or form.placement.step.order < BRACKET_ORDER]
        if not any(form.n_lines > 1 for form in named) and metric == "train/loss":
            named = []
        for form in curves:
            has_other = {loss.metric for loss in form.template.losses()} != {metric}
            if named and form not in named and form.placement.epoch is None and not has_other:
                form.is_reading = False
        if any(not form.placement.is_progress for form in curves):
            for form in (*curves, *loose):
                form.is_reading &= not (form.placement.is_progress and metric == "val/loss")
    n_train = sum(form.n_lines for form in readings if form.has_train_loss)
    n_val = sum(form.n_lines for form in readings if not form.has_train_loss)
    for form in loose:
        if form.has_train_loss:
            form.needs_heading = form.n_lines <= 2 * n_train
        elif 2 * form.n_lines <= n_val and _is_finite(form):
            form.is_reading = False


def _find_first_heading(forms: Sequence[Form], losses: Sequence[Form]) -> int:
    """Return the first line that says where lines below it belong, or the first loss."""
    first_loss = min((form.template.first_line for form in losses), default=0)
    headings = [form.template.first_line for form in forms if form.is_position and form.n_lines > 1]
    return min([first_loss, *headings])


def _accompanies(form: Form, main: Sequence[Form], start: int) -> bool:
    """Return whether lines without a loss recur beside the losses, though they begin before or end after them."""
    known, steps = [step for other in main for step in other.steps()], form.steps()
    if form.n_lines < 2 or form.template.last_line <= start or not known or not steps:
        return False
    return min(steps) <= MAX_LEAP * max(known) and max(steps) >= min(known)


def _agrees(form: Form, main: Sequence[Form], start: int) -> bool:
    """Return whether the steps of a form lie within those of the log."""
    known = [step for other in main for step in other.steps()]
    steps = form.steps()
    if not known or not steps or (form.placement.step is None and any(other.placement.step for other in main)):
        return bool(steps) and form.template.first_line > start
    if form.template.first_line < start:
        return max(steps) <= min(known)
    return max(steps) <= max(MAX_LEAP * max(known), max(known) + 3 * (max(known) - min(known)) / len(known))


def _is_measured(form: Form) -> bool:
    """Return whether the losses have fractions, or are not finite, as in no setting."""
    losses = form.template.losses()
    values = [value for loss in losses for value in form.template.column_values(loss.index) if value != MISSING]
    return any(value != value or value % 1 for value in values) or any(
        loss.index in form.template.decimals for loss in losses
    )


def _is_constant_assignment(form: Form) -> bool:
    """Return whether the lines are the same assignment again and again, as in source code."""
    values = [value for loss in form.template.losses() for value in form.template.column_values(loss.index)]
    is_same = len(set(values)) == 1 and all(map(math.isfinite, values))
    return form.template.is_assignment and form.n_lines > 1 and is_same


def _is_finite(form: Form) -> bool:
    return all(
        math.isfinite(value) for loss in form.template.losses() for value in form.template.column_values(loss.index)
    )


def use_parts_as_losses(forms: Sequence[Form]) -> str:
    """Make the sum of several losses the loss, if the log has no other; return a note about it.

    The only loss of its kind on validation data, such as `dev-clean-loss`, is the validation loss.
    """
    forms = [form for form in forms if not form.template.is_code]
    _name_short_splits(forms)
    metrics = {loss.metric for form in forms for loss in form.template.losses()}
    with_parts = [form for form in forms if form.template.positions("part")]
    names = list(dict.fromkeys(column.name for form in with_parts for column in form.template.positions("part")))
    if "train/loss" in metrics and "val/loss" not in metrics:
        names = [name for name in names if name.startswith(("val ", "test "))]
        names = names if len(names) == 1 else []
    elif metrics:
        return ""
    names = _drop_last_resorts(names, with_parts)
    if not names or any(set(name.replace(" ", "_").split("_")) & RIVALS for name in names):
        return ""
    for form in with_parts:
        for column in form.template.positions("part"):
            if column.name not in names:
                continue
            split = column.name.split()[0] if " " in column.name else ""
            column.role, column.metric = "metric", _metric_of_part(column.name)
            column.name, column.is_summed = f"{split}_loss" if split else "loss", True
            form.has_loss = True
    shown = ", ".join(name.split()[-1] for name in names[:5])
    return f", loss is the sum of {shown}" if len(names) > 1 else f", {_metric_of_part(names[0])} is {shown}"


def _name_short_splits(forms: Sequence[Form]) -> None:
    """Make training and validation losses of `t_loss` and `v_loss`, if a log has both."""
    parts = [column for form in forms for column in form.template.positions("part")]
    names = {column.name.split()[-1] for column in parts}
    for column in parts:
        if split := find_short_split(column.name.split()[-1], names):
            column.role, column.metric, column.name = "metric", f"{split}/loss", f"{split}_loss"
    for form in forms:
        form.has_loss = form.has_loss or bool(form.template.losses())


def _drop_last_resorts(names: Sequence[str], forms: Sequence[Form]) -> list[str]:
    """Return the names without those that are used only if there is no other; one of these if it changes."""
    others = [name for name in names if name.split()[-1] not in LAST_RESORTS]
    if others or not names:
        return others
    changing = [
        name
        for name in names
        if any(
            column.name == name and form.has_position and _is_curve(form.template.column_values(column.index))
            for form in forms
            for column in form.template.positions("part")
        )
    ]
    return changing if len(changing) == 1 else []


def _is_curve(values: Sequence[float]) -> bool:
    """Return whether numbers change, and have fractions."""
    return len(set(values)) > 1 and any(value % 1 for value in values if math.isfinite(value))


def _metric_of_part(name: str) -> str:
    return "val/loss" if name.startswith(("val ", "test ")) else "train/loss"
