"""Histories from the rows of any format: separates runs, numbers steps and chooses the names of our metrics."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.run_splitting import RunRows, find_reference_loss, iterate_epochs, split_runs
from harness.importers.assembly.step_numbering import sort_by_step
from harness.importers.metric_aliases import build_history, canonical_name
from harness.importers.rows import Row

PSEUDO_STEPS_PER_EPOCH = 100
"""Steps that stand for an epoch in a log with fractions of epochs and no steps, or more if rows are closer."""
MAX_PSEUDO_STEPS = 10**6
MAX_POSITION = 1e12
MIN_ROWS = 3
"""Fewer losses without any step are not the log of a training."""

Numbered = list[tuple[int, Row]]


def assemble_histories(rows: Sequence[Row], facts: RunFacts) -> list[History]:
    """Return the history of each run in `rows`, in the order of the file. Rows are numbered if they have no steps.

    Raises:
        ValueError: If there are no steps and hardly a loss.
    """
    for row in rows:
        _drop_impossible(row)
    runs = split_runs(rows)
    runs = [run for run in runs if _is_curve(run)] or runs[-1:]
    histories = []
    for number, run in enumerate(runs, 1):
        source = facts.source + (f"; run {number} of {len(runs)} in it{run.note}" if len(runs) > 1 else run.note)
        name = " ".join(filter(None, (facts.name, run.name)))
        histories.append(_assemble_history(run, replace(facts, name=name, source=source)))
    return histories


def _drop_impossible(row: Row) -> None:
    """Drop positions that no run has, such as a step read from a long number."""
    for name in ("step", "epoch", "epoch_length", "total_steps", "total_epochs"):
        value = getattr(row, name)
        if value is not None and not abs(value) < MAX_POSITION:  # NaN is not less either
            setattr(row, name, None)


def _assemble_history(run: RunRows, facts: RunFacts) -> History:
    numbered, facts = _number_rows(run, facts)
    points: dict[str, list[tuple[int, float]]] = {}
    for step, row in numbered:
        for name, value in row.values.items():
            points.setdefault(name, []).append((step, value))
        if row.epoch is not None:
            points.setdefault("epoch", []).append((step, row.epoch))
    means = {name: _average_moments(column) for name, column in points.items()}
    if any(len(means[name]) < len(points[name]) for name in points if canonical_name(name) == "train/loss"):
        facts = replace(facts, source=f"{facts.source}, several rows a step: their mean")
    history = build_history({name: sort_by_step(column) for name, column in means.items()}, facts)
    history.facts = replace(history.facts, total_steps=facts.total_steps or _find_total_steps(run, history))
    return history


def _number_rows(run: RunRows, facts: RunFacts) -> tuple[Numbered, RunFacts]:
    """Return the rows with their steps of the run; rows without one take that of the row before."""
    reference = find_reference_loss(run.rows)
    losses = [row for row in run.rows if reference in row.values] or run.rows
    with_steps = sum(row.step is not None for row in losses)
    if any(row.step is not None for row in run.rows) and 2 * with_steps >= len(losses):
        return _number_by_steps(run, facts, reference)
    if any(row.epoch is not None for row in losses) or (
        with_steps == 0 and any(row.epoch is not None for row in run.rows)
    ):
        return _number_by_epochs(run, facts)
    return _number_by_order(run, facts, reference)


def _number_by_steps(run: RunRows, facts: RunFacts, reference: str | None) -> tuple[Numbered, RunFacts]:
    """Use steps as logged, or counted on if they restart in every epoch.

    An evaluation that counts its own batches has the step of the end of its epoch; one that counts epochs, that of the
    row before.
    """
    offsets = _find_offsets(run, reference) if run.restarts else {}
    numbered: Numbered = []
    step, latest_epoch, offset, furthest = None, None, 0, 0
    for row, epoch in iterate_epochs(run):
        if epoch is not None and epoch != latest_epoch:
            offset, furthest = offsets.get(epoch, (offset, furthest))
            latest_epoch = epoch
        if row.step is not None:
            logged = round(row.step)
            goes_back = reference not in row.values and step is not None and offset + logged < step
            if goes_back and run.restarts:
                step = offset + max(logged, furthest)
            elif not (goes_back and logged == latest_epoch):
                step = offset + logged
        if step is not None:
            numbered.append((step, row))
    note = ", steps restart in every epoch" if run.restarts else ""
    return numbered, replace(facts, source=facts.source + note)


def _find_offsets(run: RunRows, reference: str | None) -> dict[float | None, tuple[int, int]]:
    """Return the steps of the run before each epoch, and the last step in it, from the rows with the reference loss."""
    steps: dict[float | None, list[int]] = {}
    lengths: dict[float | None, float | None] = {}
    latest: float | None = None
    for row, epoch in iterate_epochs(run):
        latest = epoch if epoch is not None else latest
        if row.step is not None and reference in row.values:
            steps.setdefault(latest, []).append(round(row.step))
            lengths[latest] = row.epoch_length or lengths.get(latest)
    first = min((epoch for epoch in steps if epoch is not None), default=0.0)
    offsets: dict[float | None, tuple[int, int]] = {}
    offset = end = last = 0
    gap = 1
    for epoch, logged in steps.items():
        length = lengths[epoch]
        if length and epoch is not None:
            offset = round((math.floor(epoch) - math.floor(first)) * length)
        elif offsets and logged[0] <= last:
            offset = end + (gap if logged[0] <= 0 else 0)
        offsets[epoch] = offset, max(logged)
        has_gap = len(logged) > 1 and logged[-1] > logged[-2]
        gap = logged[-1] - logged[-2] if has_gap else max(1, offset + logged[0] - end)
        last, end = max(logged), max(end, offset + max(logged))
    return offsets


def _number_by_epochs(run: RunRows, facts: RunFacts) -> tuple[Numbered, RunFacts]:
    """Use epochs as steps. Rows that share an epoch are spread evenly up to the next one."""
    placed: list[tuple[float, Row]] = []
    for epochs, group, width in _group_epochs(run.rows):
        moments = _count_moments(group)
        n_moments = moments[-1] + 1
        placed += [(epochs + width * moment / n_moments, row) for moment, row in zip(moments, group, strict=True)]
    scale = _choose_scale([position for position, _ in placed])
    numbered = [(round(position * scale), row) for position, row in placed]
    note = f", epochs as steps ({scale} per epoch)" if scale > 1 else ", epochs as steps"
    facts = replace(facts, steps_unit="epochs", steps_per_epoch=float(scale), source=facts.source + note)
    return numbered, facts


def _group_epochs(rows: Sequence[Row]) -> list[tuple[float, list[Row], float]]:
    """Return (epoch, rows, distance to the next epoch) of consecutive rows with the same epoch."""
    groups: list[tuple[float, list[Row]]] = []
    for row in rows:
        if row.epoch is not None and not (groups and groups[-1][0] == row.epoch):
            groups.append((row.epoch, []))
        if groups:
            groups[-1][1].append(row)
    gaps = sorted(second - first for (first, _), (second, _) in pairwise(groups) if second > first)
    typical = gaps[len(gaps) // 2] if gaps else (1.0 if all(epoch % 1 == 0 for epoch, _ in groups) else 0.01)
    followers = [epoch for epoch, _ in groups[1:]] + [math.inf]
    return [
        (epoch, group, min(typical, following - epoch) if following > epoch else typical)
        for (epoch, group), following in zip(groups, followers, strict=True)
    ]


def _count_moments(rows: Sequence[Row]) -> list[int]:
    """Return the moment of each row, which is a new one where a name comes again."""
    moments, moment = [], 0
    seen: set[str] = set()
    for row in rows:
        if seen & row.values.keys():
            moment, seen = moment + 1, set()
        seen |= row.values.keys()
        moments.append(moment)
    return moments


def _choose_scale(positions: Sequence[float]) -> int:
    """Return the steps per epoch at which different positions have different steps."""
    if all(position % 1 == 0 for position in positions):
        return 1
    distinct = sorted(set(positions))
    closest = min((second - first for first, second in pairwise(distinct)), default=1.0)
    scale = PSEUDO_STEPS_PER_EPOCH
    while scale * closest < 0.999 and scale < MAX_PSEUDO_STEPS:
        scale *= 10
    return scale


def _number_by_order(run: RunRows, facts: RunFacts, reference: str | None) -> tuple[Numbered, RunFacts]:
    """Count the rows with the reference loss; ValueError if these are too few to be a curve."""
    if not _is_curve(run):
        raise ValueError(f"{facts.source}: no steps and hardly a loss; this is no log of a training")
    numbered, number = [], 0
    for row in run.rows:
        number += reference in row.values
        numbered.append((max(number, 1), row))
    source = f"{facts.source}, no steps in it: its rows are counted"
    return numbered, replace(facts, steps_unit="rows", source=source)


def _is_curve(run: RunRows) -> bool:
    """Return whether any row has a position, or there are enough losses without one."""
    reference = find_reference_loss(run.rows)
    losses = [row for row in run.rows if reference in row.values]
    return len(losses) >= MIN_ROWS or any(row.step is not None or row.epoch is not None for row in run.rows)


def _average_moments(points: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return the mean at each step if most have several consecutive points, as from micro-batches or processes."""
    repeated = sum(first == second for (first, _), (second, _) in pairwise(points))
    if 2 * repeated < len(points):
        return points
    groups: list[tuple[int, list[float]]] = []
    for step, value in points:
        if groups and groups[-1][0] == step:
            groups[-1][1].append(value)
        else:
            groups.append((step, [value]))
    return [(step, sum(values) / len(values)) for step, values in groups]


def _find_total_steps(run: RunRows, history: History) -> int | None:
    """Return the length of the run that its log names, None if it names none or one that was exceeded."""
    facts = history.facts
    steps = max((row.total_steps for row in run.rows if row.total_steps), default=None)
    epochs = max((row.total_epochs for row in run.rows if row.total_epochs), default=None)
    if steps is None and epochs and facts.steps_per_epoch:
        steps = epochs * facts.steps_per_epoch
    return round(steps) if steps is not None and math.isfinite(steps) and steps >= history.last_step else None
