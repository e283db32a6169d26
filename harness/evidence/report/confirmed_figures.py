"""The figures of a confirmation: intervals, single seeds, and the gap between selection and fresh seeds."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from harness.core.formatting import objective_label
from harness.evidence.charts.figure_data import Gaps, Interval, Intervals, SeedRow, Seeds, Stages
from harness.evidence.report.confirmed_values import Confirmed
from harness.evidence.report.document import Bare, Block, Name, ReportFigure, Span, Text
from harness.evidence.report.phrases import join_spans, make_id
from harness.evidence.report.verdict_check import read_float


def draw_intervals(confirmed: Confirmed) -> list[Block]:
    """Return the differences of the verdicts with their intervals, once `describe_verdict` has added the numbers."""
    rows, alt = [], []
    for verdict in confirmed.verdicts:
        name, values = (
            str(verdict["candidate"]),
            [read_float(verdict.get(key)) for key in ("difference", "low", "high")],
        )
        if verdict.get("reason") or None in values or math.isnan(values[0] or 0.0):
            continue
        difference, low, high = (float(value) for value in values if value is not None)
        rows.append(Interval(f"{name}: {verdict['status']}", difference, low, high))
        id = confirmed.make_id(name)
        numbers = [confirmed.book.numbers[f"{id}.{key}"] for key in ("difference", "low", "high")]
        alt.append((Name(name), " ", numbers[0], " from ", Bare(numbers[1]), " to ", Bare(numbers[2])))
    if not rows:
        return []
    label = objective_label(confirmed.metric)
    axis = f"difference of {label}{f' ({confirmed.unit})' if confirmed.unit else ''}"
    side = "right" if confirmed.is_maximized else "left"
    caption: Text = (
        "Difference from the baseline with its interval: ", Name(label), f"; to the {side} of zero favors the "
        "candidate. An interval that contains zero shows no difference.",
    )  # fmt: skip
    text: Text = ("Differences from the baseline with their intervals: ", *join_spans(alt, "; "), ".")
    data = Intervals(tuple(rows), axis, read_float(confirmed.content.get("margin")))
    return [ReportFigure("verdicts", data, text, caption, (confirmed.place,))]


def draw_seeds(confirmed: Confirmed) -> list[Block]:
    """Return the value of every seed of each configuration."""
    rows, alt = [], []
    for index, (name, config) in enumerate(confirmed.configs.items()):
        by_seed = {run["seed"]: _read_drawn_value(run, confirmed.metric) for run in config["runs"]}
        values = tuple(by_seed.get(seed) for seed in confirmed.content["seeds"])
        mean = confirmed.add_mean(name, confirmed.metric)
        rows.append(SeedRow(name, "candidate" if index else "baseline", values, mean.value if mean else None))
        if mean is not None:
            alt.append((Name(name), " with mean ", mean))
    if not alt:
        return []
    label = objective_label(confirmed.metric)
    caption: Text = (Name(label), " of each run on a fresh seed, and the means.")
    if len(rows) == 2:
        caption = (*caption, " Lines join the runs of one seed.")
    caption = (*caption, *_count_missing(confirmed))
    text: Text = ("Values by seed: ", *join_spans(alt, "; "), ".")
    axis = f"{label} ({confirmed.unit})" if confirmed.unit else label
    return [ReportFigure("seeds", Seeds(tuple(rows), axis), text, caption, (confirmed.place,))]


def _read_drawn_value(run: Mapping[str, Any], metric: str) -> float | None:
    """Return the value of a run, infinity for one that diverged, None for one without a result."""
    return math.inf if run["status"] == "diverged" else _keep_finite(read_float(run["values"].get(metric)))


def _count_missing(confirmed: Confirmed) -> list[Span]:
    """Return how many runs the figure leaves out, by status; nothing if it has all."""
    statuses: Counter[str] = Counter()
    for config in confirmed.configs.values():
        runs = {run["seed"]: run for run in config["runs"]}
        for seed in confirmed.content["seeds"]:
            run = runs.get(seed)
            if run is None or _read_drawn_value(run, confirmed.metric) is None:
                statuses["not run" if run is None else str(run["status"])] += 1
    counts = [
        (confirmed.read(f"confirm.missing.{make_id(status)}", count, f"runs that are {status}", style="whole"),
         f" {'completed without a finite value' if status == 'completed' else status}")
        for status, count in statuses.items()
    ]  # fmt: skip
    return [" Not drawn: ", *join_spans(counts), "."] if counts else []


def draw_gaps(confirmed: Confirmed) -> list[Block]:
    """Return the values of each configuration in the sweep, on fresh seeds, and on the test split."""
    stages = ["in the sweep", "on fresh seeds", *(["on the test split"] if confirmed.split == "test" else [])]
    metrics = [confirmed.objective, confirmed.metric][: len(stages) - 1]
    rows = []
    for name, config in confirmed.configs.items():
        means = [confirmed.add_mean(name, metric) for metric in metrics]
        values = [
            _keep_finite(read_float(config.get("selected_value"))),
            *(mean.value if mean else None for mean in means),
        ]
        rows.append(Stages(name, tuple(values)))
    label = objective_label(confirmed.objective)
    axis = f"{label} ({confirmed.unit})" if confirmed.unit else label
    names = join_spans(Name(stage) for stage in stages)
    text: Text = (Name(label), " of each configuration ", *names, "; the table has the numbers.")
    data = Gaps(tuple(stages), tuple(rows), axis)
    return [ReportFigure("gaps", data, text, text, (confirmed.place,))]


def _keep_finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
