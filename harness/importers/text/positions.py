"""Positions of the lines of a log: which of their numbers is the step and which the epoch."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.importers.metric_aliases import TOKENS
from harness.importers.numbers import MISSING, is_whole
from harness.importers.text.columns import BRACKET_ORDER, FREE_ORDER, LineNumber
from harness.importers.text.templates import Template

MAX_FREE_STEP = 1e8  # larger numbers without a label are times
MAX_EPOCHS, MAX_BARE_EPOCHS = 2_000, 200
"""A number n/N that goes up by one in each line with losses counts epochs up to so large an N."""
MIN_WHOLE = 0.95  # share of the values of a step that are whole numbers
SAME_SCALE = 1.3
"""Factor between two steps from which on the larger one counts over the run, the other one in an epoch."""


@dataclass
class Placement:
    """The columns of a template that say where in the run its lines belong."""

    step: LineNumber | None = None
    epoch: LineNumber | None = None
    is_progress: bool = False  # within an evaluation


def place_templates(templates: Sequence[Template]) -> list[Placement]:
    """Choose the columns for step and epoch of each template.

    A line that occurs once has the step under the same name as the lines that occur often.
    """
    placements: dict[int, Placement] = {}
    names: Counter[str] = Counter()
    for template in sorted(templates, key=len, reverse=True):
        placement = placements[id(template)] = _place_template(template, names)
        if placement.step and len(template) > 1:
            names[placement.step.name] += len(template)
    found = [placements[id(template)] for template in templates]
    losing = [one for template, one in zip(templates, found, strict=True) if template.losses() and not template.is_code]
    if not any(one.epoch or (one.step and one.step.name) for one in losing):
        _use_fractions_as_epochs(templates, found)
    return found


def _place_template(template: Template, names: Mapping[str, int]) -> Placement:
    """Choose among the columns with a name or in the usual places."""
    epochs = [column for column in template.positions("epoch") if _is_epoch(template, column)]
    epoch = min(epochs, key=lambda column: column.order, default=None)
    steps = [column for column in template.positions("step") if _is_step(template, column)]
    is_progress = False
    if template.context in ("val", "test") and not any(loss.metric == "train/loss" for loss in template.losses()):
        named = [column for column in steps if column.order < BRACKET_ORDER]
        is_progress = len(named) < len(steps)
        steps = named
    return Placement(_choose_step(template, steps, names), epoch, is_progress)


def _use_fractions_as_epochs(templates: Sequence[Template], placements: Sequence[Placement]) -> None:
    """Make epochs of the steps n/N at the start of lines that count these, in a log without other positions."""
    for template, placement in zip(templates, placements, strict=True):
        if placement.step is not None and _counts_epochs(template, placement.step):
            placement.step, placement.epoch = None, placement.step


def _counts_epochs(template: Template, column: LineNumber) -> bool:
    """Return whether n/N at the start of a line is the epoch: one line each, and a validation loss or a small N."""
    if column.of is None or column.name or column.index != 0 or template.is_bar or template.context in ("val", "test"):
        return False
    values, totals = template.column_values(column.index), template.column_values(column.of)
    has_val = any(loss.metric == "val/loss" for loss in template.losses())
    is_counted = all(second - first == 1 for first, second in pairwise(values)) and values[0] in (0, 1)
    is_small = totals[0] <= (MAX_EPOCHS if has_val else MAX_BARE_EPOCHS)
    return len(values) > 2 and is_counted and len(set(totals)) == 1 and is_small and bool(template.losses())


def find_free_step(template: Template) -> LineNumber | None:
    """Return a number without a name that rises like a step, in lines that have no other position."""
    first_loss = min((loss.index for loss in template.losses()), default=0)
    candidates = []
    for column in template.positions("free"):
        values = template.column_values(column.index)
        if column.index > first_loss or len(values) < 2 or max(values) > MAX_FREE_STEP:
            continue
        rises = [second - first for first, second in pairwise(values)]
        n_falls = sum(rise < 0 for rise in rises)
        if any(rise == 0 for rise in rises) or n_falls > 0.2 * len(rises) or not all(map(is_whole, values)):
            continue
        is_regular = len(set(rises)) == 1 or (n_falls and len({rise for rise in rises if rise > 0}) == 1)
        if column.order > FREE_ORDER and (len(values) < 3 or not is_regular):
            continue
        candidates.append((column.order, column.index, column))
    return min(candidates, default=(0, 0, None))[2]


def is_monotone(values: Sequence[float]) -> bool:
    """Return whether values never fall, up to one in twenty."""
    known = [value for value in values if value != MISSING]
    return sum(second < first for first, second in pairwise(known)) <= 0.05 * len(known)


def _is_epoch(template: Template, column: LineNumber) -> bool:
    values = [value for value in template.column_values(column.index) if value != MISSING]
    return bool(values) and min(values) >= 0 and max(values) < MAX_FREE_STEP


def _is_step(template: Template, column: LineNumber) -> bool:
    """Return whether the values may be steps: whole numbers, and not always the same while the losses change."""
    values = [value for value in template.column_values(column.index) if value != MISSING and math.isfinite(value)]
    whole = sum(map(is_whole, values))
    if whole < MIN_WHOLE * len(values) or not whole:
        return False
    if column.of is not None and (column.order > BRACKET_ORDER or template.positions("epoch")):
        return True  # a bar at its end, or the first batch, in every epoch
    is_constant = len(values) > 2 and min(values) == max(values)
    losses = [template.column_values(loss.index) for loss in template.losses()]
    return not (is_constant and any(len(set(values)) > 2 for values in losses))


def _choose_step(template: Template, steps: Sequence[LineNumber], names: Mapping[str, int]) -> LineNumber | None:
    """Return the column that counts over the whole run: it never falls, and is the largest of those."""
    if len(steps) < 2:
        return steps[0] if steps else None
    if len(template) < 2:
        return min(steps, key=lambda column: (-names.get(column.name, 0), column.order))

    known = {
        column.index: [value for value in template.column_values(column.index) if value != MISSING] for column in steps
    }
    named = [
        column
        for column in steps
        if column.order < BRACKET_ORDER and is_monotone(known[column.index]) and len(set(known[column.index])) > 1
    ]
    steps = named or steps  # `[Epoch 1 128/2560][Iteration 2]`
    largest = max((values[-1] for values in known.values() if is_monotone(values)), default=0.0)

    def rank(column: LineNumber) -> tuple[bool, bool, bool, int]:
        values = known[column.index]
        is_large = is_monotone(values) and values[-1] * SAME_SCALE >= largest
        return is_monotone(values), is_large, values[0] != values[-1], -column.order

    return max(steps, key=rank)


def kind_of(template: Template, placement: Placement) -> tuple[str, ...]:
    """Return what the lines of a template have in common with those of others: names and positions."""
    roles = [role for role, column in (("step", placement.step), ("epoch", placement.epoch)) if column]
    names = [column.name for column in template.columns if column.role == "metric" and column.metric != TOKENS]
    return (*roles, *sorted(names))
