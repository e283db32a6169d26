"""Positions of rows that do not name their step or epoch: those of headings, bars and other lines around them."""

from bisect import bisect
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from harness.importers.rows import Row
from harness.importers.text.readings import Form

MIN_DISTINCT = 0.5
"""Steps that come from other lines differ at least at this share of the losses."""
MAX_HEADING_LETTERS = 14  # "epoch 1/3 started"
MAX_FALLS = 0.2
"""Share of the losses at which such a step may fall, as at the start of an epoch."""


@dataclass(slots=True)
class Entry:
    """A row, with its place in the order of the log, and the N of a step or an epoch n/N."""

    sequence: int
    row: Row
    form: Form
    step_of: float | None = None
    epoch_of: float | None = None


@dataclass(frozen=True)
class Position:
    """A step or an epoch that a line names which has no measurements."""

    sequence: int
    form: Form
    group: Hashable  # lines of one form, or bars of one length
    step: float | None
    epoch: float | None
    step_of: float | None
    epoch_of: float | None


def inherit_positions(entries: Sequence[Entry], positions: Sequence[Position], what: str) -> None:
    """Give rows without a step or an epoch, as `what` says, those of the lines before them, or behind."""
    losses = [entry for entry in entries if entry.form.has_train_loss] or list(entries)
    takers = [entry for entry in entries if getattr(entry.row, what) is None]
    without = [entry for entry in losses if getattr(entry.row, what) is None]
    if 2 * len(without) <= len(losses) or not takers:
        return
    groups: dict[Hashable, list[Position]] = defaultdict(list)
    for position in positions:
        if getattr(position, what) is not None:
            groups[position.group].append(position)
    best, chosen = 0, None
    for group in groups.values():
        is_footer = _is_footer(without, group)
        values = [getattr(position, what) for position in _positions_at(without, group, is_footer) if position]
        distinct = _count_distinct(values, len(without), what, group[0].form)
        if distinct > best:
            best, chosen = distinct, (group, is_footer)
    if chosen is None:
        return
    for entry, given in zip(takers, _positions_at(takers, *chosen), strict=True):
        if given is not None:
            setattr(entry.row, what, getattr(given, what))
            setattr(entry, f"{what}_of", getattr(given, f"{what}_of"))


def _is_footer(losses: Sequence[Entry], group: Sequence[Position]) -> bool:
    """Return whether the positions stand below the losses they belong to."""
    return losses[0].sequence < group[0].sequence and losses[-1].sequence < group[-1].sequence


def _positions_at(entries: Sequence[Entry], group: Sequence[Position], is_footer: bool) -> list[Position | None]:
    """Return the position of each row: the latest one before it, or the next one."""
    sequences = [position.sequence for position in group]
    found: list[Position | None] = []
    for entry in entries:
        at = bisect(sequences, entry.sequence) - (0 if is_footer else 1)
        found.append(group[at] if 0 <= at < len(group) else None)
    return found


def _count_distinct(values: Sequence[float], n_losses: int, what: str, form: Form) -> int:
    """Return how many different positions the losses have, 0 if these cannot be theirs."""
    distinct = len(set(values))
    falls = sum(second < first for first, second in pairwise(values))
    if falls > MAX_FALLS * len(values):
        return 0
    if what == "epoch" and distinct == 1 and not _is_heading(form):
        return 0
    if what == "step" and (
        distinct < max(MIN_DISTINCT * n_losses, min(n_losses, 2)) or (n_losses < 2 and form.template.is_bar)
    ):
        return 0
    return distinct


def _is_heading(form: Form) -> bool:
    """Return whether the lines say the epoch and hardly anything else."""
    n_letters = sum(character.isalpha() for gap in form.template.gaps for character in gap)
    return len(form.template.columns) == 1 and n_letters <= MAX_HEADING_LETTERS


def set_lengths(entries: Sequence[Entry]) -> None:
    """Set the length of the run or of an epoch, whichever the N of steps n/N is, and the number of epochs."""
    for entry in entries:
        if entry.epoch_of is not None:
            entry.row.total_epochs = entry.epoch_of
    counted = [entry for entry in entries if entry.step_of is not None and entry.row.step is not None]
    if not counted:
        return
    is_full = all(entry.row.step == entry.step_of for entry in counted)
    if is_full and len({entry.row.epoch for entry in counted}) > 1:  # a bar at its end, which says nothing
        for entry in counted:
            entry.row.step = None
        return
    what = "epoch_length" if _restarts(counted) else "total_steps"
    for entry in counted:
        setattr(entry.row, what, entry.step_of)


def _restarts(counted: Sequence[Entry]) -> bool:
    """Return whether the steps count from 0 in every epoch."""
    steps = [(entry.row.step or 0.0, entry.step_of or 0.0) for entry in counted]
    if any(second[0] < first[0] for first, second in pairwise(steps)):
        return True
    epochs = {entry.row.epoch for entry in counted if entry.row.epoch is not None}
    if len(epochs) > 1:
        return len({step for step, _ in steps}) < len(steps) / 2
    placement = counted[0].form.placement
    if not epochs or next(iter(epochs)) % 1:
        return False
    return placement.epoch is None or placement.step is None or placement.epoch.index < placement.step.index
