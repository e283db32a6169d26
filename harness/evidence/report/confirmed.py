"""Confirmation on fresh seeds: verdicts with their intervals, the seeds behind them, and the selection gap.

It reads the content of confirm.json. Means and differences are computed from the values of the runs; intervals and p
are those of the verdicts, which rest on the same values.
"""

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import ConfigError
from harness.core.formatting import objective_label
from harness.evidence.charts.figure_data import Interval, Intervals
from harness.evidence.report.document import (
    Bare,
    Block,
    Claim,
    Code,
    CommandLines,
    Name,
    Paragraph,
    Quote,
    ReportFigure,
    ReportSection,
    ReportTable,
    Span,
    Text,
)
from harness.evidence.report.numbers import Number, NumberBook, Reading
from harness.evidence.report.phrases import DASH, join_spans, make_id
from harness.evidence.report.study_numbers import cell_of

PLACE = "confirm.json"
BASELINE = "baseline"
TOLERANCE = 1e-9
"""Relative difference of a recorded verdict and what its runs give, for the order of additions."""


@dataclass
class Confirmed:
    """A confirmation: the content of confirm.json, the name of its study, and the unit of its metric."""

    content: Mapping[str, Any]
    study: str
    unit: str
    book: NumberBook
    is_maximized: bool = field(init=False)

    def __post_init__(self) -> None:
        self.is_maximized = self.content["direction"] == "maximize"

    @property
    def metric(self) -> str:
        return str(self.content["metric"])

    @property
    def objective(self) -> str:
        return str(self.content["objective"])

    @property
    def split(self) -> str:
        return str(self.content.get("split", "unknown"))

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        return {str(config["name"]): config for config in self.content["configs"]}

    @property
    def verdicts(self) -> list[Mapping[str, Any]]:
        return list(self.content["verdicts"])

    def make_id(self, config: str, *parts: object) -> str:
        """Return the id of a number of a configuration, which another configuration's name cannot lead to."""
        number = self.configs[config].get("trial")
        index = list(self.configs).index(config)
        name = BASELINE if index == 0 else f"candidate {index}" if number is None else f"trial {number}"
        return make_id("confirm", name, *parts)

    def read(self, name: str, value: object, metric: str, unit: str = "", **options: Any) -> Number:
        number = value if isinstance(value, int) and not isinstance(value, bool) else read_float(value)
        return self.book.read(name, number, unit, Reading(f"{PLACE} of study {self.study}", metric), **options)

    def list_values(self, config: str, metric: str, n_seeds: int | None = None) -> list[Number]:
        """Return the finite values of a metric in the runs of a configuration, those of the first seeds if given."""
        seeds = list(self.content["seeds"])[:n_seeds]
        found = []
        for run in self.configs[config]["runs"]:
            value = read_float(run["values"].get(metric)) if run["seed"] in seeds else None
            if value is not None and math.isfinite(value):
                place = Reading(f"study {self.study} confirm/{run['trial']}", metric, None, f"seed {run['seed']}")
                id = self.make_id(config, f"seed {run['seed']}", metric)
                found.append(self.book.read(id, value, self.unit, place, "loss"))
        return found

    def add_mean(self, config: str, metric: str, n_seeds: int | None = None) -> Number | None:
        """Return the mean of a metric over the seeds that finished, None if none did."""
        values = self.list_values(config, metric, n_seeds)
        if not values:
            return None
        id = self.make_id(config, metric, "mean" if n_seeds is None else f"mean of {n_seeds}")
        total = f"sum({', '.join(value.id for value in values)})"
        return self.book.compute(id, f"{total} / {len(values)}", self.unit, "loss")


def read_float(value: object) -> float | None:
    """Return a number that JSON may hold as text, such as "Infinity"; None where there is none."""
    try:
        return float(value)  # type: ignore[arg-type]  # TypeError for what is not a number
    except (TypeError, ValueError):
        return None


def describe_verdict(confirmed: Confirmed, verdict: Mapping[str, Any]) -> Text:
    """Return the verdict on a candidate with difference, interval, n, p and what it was chosen from.

    Raises:
        ConfigError: If the verdict contradicts the values of its runs.
    """
    name, status = str(verdict["candidate"]), str(verdict["status"])
    difference = read_float(verdict.get("difference"))
    on = f" on the {confirmed.split} split" if confirmed.split in ("test", "validation") else ""
    if difference is None or math.isnan(difference):
        return (
            Name(name),
            ": no verdict, since ",
            Quote(str(verdict.get("reason") or "no reason recorded"), PLACE),
            ".",
        )
    id = confirmed.make_id(name)
    n = confirmed.read(f"{id}.n", int(verdict["n"]), f"n of {name}", style="whole")
    computed = _compute_difference(confirmed, verdict, difference)
    low, high, p = (
        confirmed.read(f"{id}.{key}", verdict[key], f"{key} of {name}", unit, style=style)
        for key, unit, style in (("low", confirmed.unit, "signed"), ("high", confirmed.unit, "signed"), ("p", "", "p"))
    )
    confidence = confirmed.read(f"{id}.confidence", verdict["confidence"], f"confidence of {name}")
    claims: dict[str, tuple[Span, ...]] = {
        "better": (" is ", Claim("better", f"{low.id} > 0" if confirmed.is_maximized else f"{high.id} < 0"),
                   f" than the baseline{on}"),
        "worse": (" is ", Claim("worse", f"{high.id} < 0" if confirmed.is_maximized else f"{low.id} > 0"),
                  f" than the baseline{on}"),
    }  # fmt: skip
    if status == "equivalent":
        margin = confirmed.read("confirm.margin", confirmed.content["margin"], "margin", confirmed.unit)
        words = Claim("equivalent", f"abs({computed.id}) < {margin.id}")
        claims[status] = (" is ", words, f" to the baseline{on}, within plus or minus ", margin)
    head = claims.get(status, (f": no difference from the baseline was shown{on}",))
    sides = " pairs of runs with the same seed" if verdict.get("paired") else " runs a side, each with another seed"
    spans: list[Span] = [
        Name(name), *head, ": ", Name(objective_label(confirmed.metric)), " differs by ", computed,
        " (interval ", Bare(low), " to ", Bare(high), " at confidence ", confidence, ", p = ", p, ", n = ", n, sides,
    ]  # fmt: skip
    chosen = confirmed.content.get("n_measured")
    if chosen is not None:
        spans += [
            "; chosen from ",
            confirmed.read("confirm.chosen_from", chosen, "n_measured", style="whole"),
            " trials",
        ]
    return (*spans, ").")


def _compute_difference(confirmed: Confirmed, verdict: Mapping[str, Any], recorded: float) -> Number:
    """Return the difference of the means over the seeds of the verdict, computed from the values of the runs."""
    name, metric = str(verdict["candidate"]), confirmed.metric
    means = [confirmed.add_mean(config, metric, int(verdict["n"])) for config in (BASELINE, name)]
    if means[0] is None or means[1] is None:
        raise ConfigError(f"{PLACE}: {name}: a difference without values of its runs; confirm the study again")
    difference = confirmed.book.compute(
        confirmed.make_id(name, "difference"), f"{means[1].id} - {means[0].id}", confirmed.unit, "signed"
    )
    scale = abs(means[0].value or 0.0) + abs(recorded)
    if difference.value is None or abs(difference.value - recorded) > TOLERANCE * scale:
        problem = f"the verdict says {recorded:.10g}, its runs give {difference.value:.10g}"
        raise ConfigError(f"{PLACE}: {name}: {problem}; confirm the study again")
    return difference


def report_confirmation(confirmed: Confirmed | None, study: str, has_candidate: bool) -> ReportSection:
    """Return the confirmation, or that nothing was confirmed with the command that does it."""
    if confirmed is None:
        blocks: list[Block] = [Paragraph(("Nothing was confirmed.",))]
        if has_candidate:
            blocks.append(Paragraph(("This command runs the baseline and the best trials on fresh seeds, and says what "
                                     "their difference shows:",)))  # fmt: skip
            blocks.append(CommandLines((format_confirm_command(study),)))
        return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))
    blocks = [Paragraph(describe_verdict(confirmed, verdict)) for verdict in confirmed.verdicts]
    if not confirmed.verdicts:
        blocks.append(Paragraph(_describe_state(confirmed)))
    blocks.append(_tabulate_seeds(confirmed))
    blocks += _draw_intervals(confirmed)
    blocks += _tabulate_gaps(confirmed)
    notes = dict.fromkeys(str(note) for verdict in confirmed.verdicts for note in verdict.get("notes") or ())
    blocks += [Paragraph((Quote(note, f"{PLACE}, notes"), ".")) for note in notes]
    methods = dict.fromkeys(str(verdict["method"]) for verdict in confirmed.verdicts if verdict.get("method"))
    if methods:
        spans = join_spans([Quote(method, f"{PLACE}, method") for method in methods], "; ")
        blocks.append(Paragraph(("Method: ", *spans, ". The seeds are ones that no trial of the sweep had.")))
    return ReportSection("confirmed", "Confirmation on fresh seeds", tuple(blocks))


def format_confirm_command(study: str) -> str:
    return f"plateau confirm {shlex.quote(study)}"


def _describe_state(confirmed: Confirmed) -> Text:
    reason = str(confirmed.content.get("reason") or "")
    because: Sequence[Span] = (", since ", Quote(reason, PLACE)) if reason else ()
    return ("The confirmation has no verdict yet: it is ", Name(str(confirmed.content["status"])), *because, ". ",
            Code(format_confirm_command(confirmed.study)), " continues it.")  # fmt: skip


def _tabulate_seeds(confirmed: Confirmed) -> ReportTable:
    names = list(confirmed.configs)
    rows = []
    for seed in confirmed.content["seeds"]:
        runs = [
            next((run for run in config["runs"] if run["seed"] == seed), None) for config in confirmed.configs.values()
        ]
        if not any(runs):
            continue
        cells = []
        for name, run in zip(names, runs, strict=True):
            values = {number.id: number for number in confirmed.list_values(name, confirmed.metric)}
            number = values.get(confirmed.make_id(name, f"seed {seed}", confirmed.metric))
            cells.append((Bare(number),) if number else (Name(str(run["status"])),) if run else DASH)
        rows.append(((Name(f"seed {seed}"),), *cells))
    means = [confirmed.add_mean(name, confirmed.metric) for name in names]
    rows.append((("mean",), *(DASH if mean is None else (Bare(mean),) for mean in means)))
    label = Name(objective_label(confirmed.metric))
    unit: Text = (label, " (", Name(confirmed.unit), ")") if confirmed.unit else (label,)
    return ReportTable((unit, *((Name(name),) for name in names)), tuple(rows))


def _draw_intervals(confirmed: Confirmed) -> list[Block]:
    rows, alt = [], []
    for verdict in confirmed.verdicts:
        name, values = (
            str(verdict["candidate"]),
            [read_float(verdict.get(key)) for key in ("difference", "low", "high")],
        )
        if None in values or math.isnan(values[0] or 0.0):
            continue
        difference, low, high = (float(value) for value in values if value is not None)
        rows.append(Interval(name, difference, low, high))
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
    return [ReportFigure("verdicts", data, text, caption, (f"{PLACE} of study {confirmed.study}",))]


def _tabulate_gaps(confirmed: Confirmed) -> list[Block]:
    """Return by how much the value that each configuration was chosen by differs from that on fresh seeds."""
    is_test = confirmed.split == "test"
    rows = []
    for name, config in confirmed.configs.items():
        selected = read_float(config.get("selected_value"))
        fresh = confirmed.add_mean(name, confirmed.objective)
        if selected is None or fresh is None:
            continue
        id = confirmed.make_id(name)
        chosen = confirmed.read(f"{id}.selected", selected, f"selected_value of {name}", confirmed.unit, style="loss")
        cells = [
            chosen,
            fresh,
            confirmed.book.compute(f"{id}.gap", f"{fresh.id} - {chosen.id}", confirmed.unit, "signed"),
        ]
        test = confirmed.add_mean(name, confirmed.metric) if is_test else None
        if test is not None:
            cells.append(test)
            cells.append(confirmed.book.compute(f"{id}.test_gap", f"{test.id} - {fresh.id}", confirmed.unit, "signed"))
        rows.append(((Name(name),), *map(cell_of, cells)))
    if not rows:
        return []
    header: list[Text] = [("",), ("in the sweep",), ("mean on fresh seeds",), ("fresh minus sweep",)]
    header += [("mean on the test split",), ("test minus validation",)] if is_test else []
    label = Name(objective_label(confirmed.objective))
    caption: Text = (
        "The value that a configuration was chosen by, and what fresh seeds give (", label, "): the gap is how much "
        "the choice flattered it. That of the baseline, which was not chosen, is seed noise.",
    )  # fmt: skip
    return [ReportTable(tuple(header), tuple(rows), caption)]
