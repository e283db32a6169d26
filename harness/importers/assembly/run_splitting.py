"""Separation of the runs in a log: by their names, or by steps that start again while the loss is back at its start.

Steps also start again in every epoch of a log that counts batches, and go back after a rollback or a resumed training.
These are one run.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median

from harness.diagnosis.history import LOSS_METRICS
from harness.importers.metric_aliases import canonical_name
from harness.importers.rows import Row

LENGTH_TOLERANCE = 0.1
"""Epochs whose numbers of steps differ by less are regular."""
BACK_AT_START, CONTINUES = 0.6, 0.4
"""Shares of the progress since the start of the run that are lost where the steps start again: a new run, an epoch."""
MANY_DROPS = 0.1
"""A table in which the step goes back at a larger share of the rows is not in the order of time."""


@dataclass
class RunRows:
    """The rows of one run in order of time."""

    rows: Sequence[Row]
    name: str = ""  # of the run in the file, empty for an only one
    restarts: bool = False  # steps start again in every epoch
    inferred_epochs: Sequence[int] | None = None  # of each row, for steps that restart in a log without epochs
    note: str = ""


@dataclass
class _Segment:
    """Rows between two places where the steps of the losses go back, with the positions and values of one loss."""

    start: int
    end: int
    positions: list[float]
    values: list[float]
    n_placed: int  # of the values, in rows with a position of their own


def split_runs(rows: Sequence[Row]) -> list[RunRows]:
    """Return the runs in the order of their first rows. The rows of several ranks are merged first."""
    groups: dict[str | None, list[Row]] = {}
    latest = next((row.run for row in rows if row.run is not None), None)
    for row in rows:
        latest = row.run if row.run is not None else latest
        groups.setdefault(latest, []).append(row)
    runs = []
    for name, group in groups.items():
        parts = _split_at_restarts(merge_ranks(group))
        for number, part in enumerate(parts, 1):
            number_text = f"run {number}" if len(parts) > 1 else ""
            runs.append(replace(part, name=" ".join(filter(None, (name if len(groups) > 1 else "", number_text)))))
    return runs


def merge_ranks(rows: Sequence[Row]) -> Sequence[Row]:
    """Merge the rows that several processes logged for the same moment: their mean, which is NaN if one is."""
    if len({row.rank for row in rows if row.rank is not None}) < 2:
        return rows
    moments: dict[tuple[float | None, float | None, int], tuple[Row, dict[str, list[float]]]] = {}
    seen: Counter[tuple[str | None, float | None, float | None, str]] = Counter()
    for row in rows:
        kind = min(row.values, default="")
        key = (row.rank, row.epoch, row.step, kind)
        seen[key] += 1
        _, values = moments.setdefault((row.epoch, row.step, seen[key]), (row, {}))
        for name, value in row.values.items():
            values.setdefault(name, []).append(value)
    return [
        replace(row, values={name: sum(column) / len(column) for name, column in values.items()}, rank=None)
        for row, values in moments.values()
    ]


def find_reference_loss(rows: Iterable[Row]) -> str | None:
    """Return the name of the loss that most rows have, preferably the training loss; None if there is none."""
    names = Counter(name for row in rows for name in row.values)
    losses = [name for name in names if canonical_name(name) in LOSS_METRICS]
    return max(losses, key=lambda name: (names[name], canonical_name(name) == "train/loss"), default=None)


def _split_at_restarts(rows: Sequence[Row]) -> list[RunRows]:
    reference = find_reference_loss(rows)
    if reference is None:
        return [RunRows(rows)]
    if _is_latest_first(rows, reference):
        rows = rows[::-1]
    drops, epoch_restarts, epoch_rises = _find_drops(rows, reference)
    restarts = epoch_restarts > 0 and 2 * epoch_restarts >= epoch_rises
    segments = _cut_segments(rows, reference, [0, *drops, len(rows)])
    if _is_unordered(segments):
        return [RunRows(rows)]
    fragments = _find_fragments(segments)
    while len(segments) > 1 and segments[0].start in fragments:
        segments = segments[1:]
    has_epochs = any(row.epoch is not None for row in rows)
    runs: list[list[tuple[_Segment, str]]] = []
    is_regular = _is_regular(segments)
    for segment in segments:
        kind = _classify_segment([one for one, _ in runs[-1]], segment, rows, has_epochs, is_regular) if runs else "run"
        if kind == "run":
            runs.append([])
        runs[-1].append((segment, kind))
    runs = [run for run in runs if len(run) > 1 or run[0][0].start not in fragments] or runs
    return [_join_segments(run, rows, restarts, len(runs)) for run in runs]


def _find_fragments(segments: Sequence[_Segment]) -> set[int]:
    """Return the starts of parts that are too short to be a run, such as readings in the program above the log.

    So are a few losses without positions, if most have one.
    """
    n_losses = sum(len(segment.values) for segment in segments)
    n_placed = sum(segment.n_placed for segment in segments)
    return {
        segment.start
        for segment in segments
        if (len(segment.values) == 1 and n_losses >= 4)
        or (len(segment.values) == 2 and n_losses >= 20)
        or (segment.n_placed == 0 and 2 * n_placed > n_losses)
    }


def _join_segments(run: Sequence[tuple[_Segment, str]], rows: Sequence[Row], restarts: bool, n_runs: int) -> RunRows:
    kinds = [kind for _, kind in run]
    epochs: list[int] | None = None
    if "epoch" in kinds:
        epochs, epoch = [], 0
        for segment, kind in run:
            epoch += kind == "epoch"
            epochs += [epoch] * (segment.end - segment.start)
    start, end = run[0][0].start, run[-1][0].end
    place = rows[start].location
    note = f", which begins in {place}" if n_runs > 1 and place and start else ""
    kept = rows[start:end]
    if "repeat" in kinds:
        note += ", part of which is in the file twice"
        kept, epochs = _drop_repeats([segment for segment, kind in run if kind == "repeat"], rows, start, end), None
    return RunRows(kept, restarts=restarts or epochs is not None, inferred_epochs=epochs, note=note)


def _drop_repeats(repeats: Sequence[_Segment], rows: Sequence[Row], start: int, end: int) -> list[Row]:
    """Return the rows without those that a repeated part has in common with the rows before it."""
    dropped: set[int] = set()
    for segment in repeats:
        before = rows[start : segment.start]
        step = max((row.step for row in before if row.step is not None), default=None)
        epoch = max((row.epoch for row in before if row.epoch is not None), default=None)
        for at in range(segment.start, segment.end):
            row = rows[at]
            is_new = (row.epoch is not None and epoch is not None and row.epoch > epoch) or (
                row.step is not None and step is not None and row.step > step
            )
            if is_new:
                break
            dropped.add(at)
    return [rows[at] for at in range(start, end) if at not in dropped]


def _is_latest_first(rows: Sequence[Row], reference: str) -> bool:
    positions = [(row.epoch or 0, row.step or 0) for row in rows if reference in row.values]
    falls = sum(second < first for first, second in pairwise(positions))
    rises = sum(second > first for first, second in pairwise(positions))
    return falls > 1 and falls > 0.9 * len(positions) - 1 and rises <= 0.1 * len(positions)


def _find_drops(rows: Sequence[Row], reference: str) -> tuple[list[int], int, int]:
    """Return the rows at which the reference loss goes back, the number of restarts in a new epoch, and of new epochs.

    A row belongs to the latest epoch before it.
    """
    drops: list[int] = []
    restarts = rises = 0
    step = epoch = last_step = last_epoch = None
    last, is_fresh = -1, False  # the last row with the loss, and whether an epoch was logged since
    for at, row in enumerate(rows):
        step = row.step if row.step is not None else step
        if row.epoch is not None:
            epoch, is_fresh = row.epoch, True
        if reference not in row.values:
            continue
        if last >= 0:
            falls = step is not None and last_step is not None and step < last_step
            is_equal = step == last_step  # also without steps
            is_next = is_fresh and epoch is not None and (last_epoch is None or epoch > last_epoch)
            is_earlier = is_fresh and epoch is not None and last_epoch is not None and epoch < last_epoch
            is_new = is_next and math.floor(epoch or 0) > math.floor(last_epoch if last_epoch is not None else -1)
            rises += is_new
            restarts += is_new and step is not None and (falls or is_equal)
            if (falls and not is_next) or (is_equal and is_earlier):
                drops.append(_find_first_row(rows, last, at, last_step, last_epoch))
                epoch = epoch if is_fresh else None
        last, last_step, last_epoch, is_fresh = at, step, epoch, False
    return drops, restarts, rises


def _find_first_row(rows: Sequence[Row], last: int, at: int, last_step: float | None, last_epoch: float | None) -> int:
    """Return the first row after `last` that belongs to the same part of the log as row `at`."""
    first = rows[at]
    for candidate in range(last + 1, at):
        row = rows[candidate]
        if row.starts_log:
            return candidate
        if row.step is not None and last_step is not None and first.step is not None:
            if row.step <= first.step and row.step < last_step:
                return candidate
        elif row.step is None and row.epoch is not None and last_epoch is not None and row.epoch < last_epoch:
            return candidate
    return at


def _cut_segments(rows: Sequence[Row], reference: str, bounds: Sequence[int]) -> list[_Segment]:
    has_steps = any(row.step is not None for row in rows)
    segments = []
    for start, end in pairwise(bounds):
        positions, values, latest, n_placed = [], [], 0.0, 0
        for row in rows[start:end]:
            position = row.step if has_steps else row.epoch
            latest = latest if position is None else position
            if reference in row.values:
                positions.append(latest)
                values.append(row.values[reference])
                n_placed += position is not None
        segments.append(_Segment(start, end, positions, values, n_placed))
    return segments


def _is_unordered(segments: Sequence[_Segment]) -> bool:
    """Return whether the rows of one run are in another order than that of time."""
    if len(segments) < 2:
        return False
    positions = [position for segment in segments for position in segment.positions]
    if len(set(positions)) < len(positions):
        return False
    ranges = sorted((min(segment.positions), max(segment.positions)) for segment in segments if segment.positions)
    is_disjoint = all(first[1] < second[0] for first, second in pairwise(ranges))
    return is_disjoint or len(segments) - 1 > max(2, MANY_DROPS * len(positions))


def _is_regular(segments: Sequence[_Segment]) -> bool:
    """Return whether all segments begin at the same step and, except for the last one, have about the same length."""
    ends = [max(segment.positions) for segment in segments]
    typical = median(ends[:-1]) if len(ends) > 1 else 0
    starts = {segment.positions[0] for segment in segments}
    is_similar = all(abs(end - typical) <= LENGTH_TOLERANCE * abs(typical) for end in ends[:-1])
    return len(starts) == 1 and is_similar and ends[-1] <= (1 + LENGTH_TOLERANCE) * typical


def _classify_segment(
    run: Sequence[_Segment], segment: _Segment, rows: Sequence[Row], has_epochs: bool, is_regular: bool
) -> str:
    """Return what a segment is to the run before it: a new "run", an "epoch", a "rollback", or a "repeat" of it."""
    if not _is_at_start(run, segment, rows, has_epochs):
        return "rollback"
    if _is_repeated(run, segment):
        return "repeat"
    share = _share_of_lost_progress(run, segment)
    if has_epochs:
        return "run"
    if is_regular:
        return "run" if share is not None and share >= BACK_AT_START else "epoch"
    return "epoch" if share is not None and share <= CONTINUES else "run"


def _is_at_start(run: Sequence[_Segment], segment: _Segment, rows: Sequence[Row], has_epochs: bool) -> bool:
    start, first = segment.positions[0], run[0].positions[0]
    if has_epochs:
        epochs = [_first_epoch(rows[one.start : one.end]) for one in (segment, run[0])]
        if epochs[0] is not None and epochs[1] is not None and epochs[0] > max(epochs[1], 1):
            return False
    gap = _typical_gap(segment.positions) or _typical_gap(run[-1].positions) or 1
    return start <= max(1, 1.5 * gap) or (start == first and first <= 5 * gap)


def _first_epoch(rows: Sequence[Row]) -> float | None:
    return next((row.epoch for row in rows if row.epoch is not None), None)


def _typical_gap(positions: Sequence[float]) -> float | None:
    gaps = [second - first for first, second in pairwise(positions) if second > first]
    return median(gaps) if gaps else None


def _is_repeated(run: Sequence[_Segment], segment: _Segment) -> bool:
    """Return whether the segment has the values of the run at the same positions: its log was printed twice."""
    known = {position: value for one in run for position, value in zip(one.positions, one.values, strict=True)}
    shared = [
        (known[position], value)
        for position, value in zip(segment.positions, segment.values, strict=True)
        if position in known
    ]
    is_varied = len({value for value, _ in shared}) > 1
    equal = sum(first == second or (first != first and second != second) for first, second in shared)
    return is_varied and equal >= 0.9 * len(shared)


def _share_of_lost_progress(run: Sequence[_Segment], segment: _Segment) -> float | None:
    """Return 1 if the loss is back at the start of the run, 0 if it is that of its end, None if these do not differ."""
    before = [value for one in run for value in one.values]
    width = min(3, max(1, min(len(run[0].values), len(segment.values)) // 3))
    start, end, now = (median(part) for part in (run[0].values[:width], before[-width:], segment.values[:width]))
    if not math.isfinite(start) or not math.isfinite(now):
        return None
    if not math.isfinite(end):
        return 1.0 if now < 2 * start else None
    steps = sorted(abs(second - first) for first, second in pairwise(before) if math.isfinite(second - first))
    noise = steps[len(steps) // 2] if steps else 0.0  # about one standard deviation
    if abs(end - start) <= max(2 * noise, 0.01 * abs(start)):
        return None
    share = (now - end) / (start - end)
    return share if share < 2 else None


def iterate_epochs(run: RunRows) -> Iterator[tuple[Row, float | None]]:
    """Yield the rows with their epochs, which are inferred if the log has none."""
    if run.inferred_epochs is not None:
        yield from zip(run.rows, map(float, run.inferred_epochs), strict=True)
    else:
        yield from ((row, row.epoch) for row in run.rows)
