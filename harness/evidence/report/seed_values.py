"""The values of configurations on fresh seeds as numbers of a report: runs, means, differences and their intervals."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from harness.core.formatting import objective_label
from harness.evidence.report.cost import CostItem
from harness.evidence.report.document import Bare, Claim, Name, Quote, ReportTable, Span, Text
from harness.evidence.report.numbers import Number, NumberBook, Reading
from harness.evidence.report.phrases import DASH, join_spans, make_id
from harness.evidence.report.verdict_check import read_float

BASELINE = "baseline"


class ComparedNumbers(NamedTuple):
    """The numbers of a comparison on fresh seeds: the difference is in its interval at the confidence."""

    difference: Number
    low: Number
    high: Number
    p: Number
    n: Number
    confidence: Number


@dataclass
class SeedValues:
    """The content of a confirm.json or an ablation.json, the name of its sweep, and the unit of its metric.

    `file` is its name, and `folder` that of the study of its runs, in the folder of the sweep.
    """

    file: ClassVar[str]
    folder: ClassVar[str]
    content: Mapping[str, Any]
    study: str
    unit: str
    book: NumberBook
    rerun_options: str | None = ""  # of plateau confirm and ablate; None if the program cannot be started again
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
    def label(self) -> str:
        """The metric in words, such as "test loss"."""
        return objective_label(self.metric)

    @property
    def place(self) -> str:
        return f"{self.file} of study {self.study}"

    @property
    def on_split(self) -> str:
        """Words that say on which data; nothing if it is unknown."""
        return f" on the {self.split} split" if self.split in ("test", "validation") else ""

    @property
    def configs(self) -> dict[str, Mapping[str, Any]]:
        return {str(config["name"]): config for config in self.content["configs"]}

    def make_id(self, config: str, *parts: object) -> str:
        """Return the id of a number of a configuration, which another configuration's name cannot lead to."""
        number = self.configs[config].get("trial")
        index = list(self.configs).index(config)
        name = BASELINE if index == 0 else f"candidate {index}" if number is None else f"trial {number}"
        return make_id(self.folder, name, *parts)

    def read(self, name: str, value: object, metric: str, unit: str = "", **options: Any) -> Number:
        number = value if isinstance(value, int) and not isinstance(value, bool) else read_float(value)
        return self.book.read(name, number, unit, Reading(self.place, metric), **options)

    def list_values(self, config: str, metric: str, n_seeds: int | None = None) -> list[Number]:
        """Return the finite values of a metric in the runs of a configuration, those of the first seeds if given."""
        seeds = list(self.content["seeds"])[:n_seeds]
        found = []
        for run in self.configs[config]["runs"]:
            value = read_float(run["values"].get(metric)) if run["seed"] in seeds else None
            if value is not None and math.isfinite(value):
                place = Reading(f"study {self.study} {self.folder}/{run['trial']}", metric, None, f"seed {run['seed']}")
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

    def add_comparison(
        self, id: str, sides: tuple[str, str], recorded: Mapping[str, Any], what: str, n_seeds: int | None = None
    ) -> ComparedNumbers:
        """Return the numbers of a comparison of two configurations: the second minus the first.

        The difference is computed from the values of the runs. If all runs of a side diverged, it is the recorded one,
        which is not finite.
        """
        n = self.read(f"{id}.n", int(recorded["n"]), f"n of {what}", style="whole")
        means = [self.add_mean(config, self.metric, n_seeds) for config in sides]
        if means[0] is None or means[1] is None:
            difference = self.read(
                f"{id}.difference", recorded["difference"], f"difference of {what}", self.unit, style="signed"
            )
        else:
            expression = f"{means[1].id} - {means[0].id}"
            difference = self.book.compute(f"{id}.difference", expression, self.unit, "signed")
        low, high, p = (
            self.read(f"{id}.{key}", recorded[key], f"{key} of {what}", unit, style=style)
            for key, unit, style in (("low", self.unit, "signed"), ("high", self.unit, "signed"), ("p", "", "p"))
        )
        confidence = self.read(f"{id}.confidence", recorded["confidence"], f"confidence of {what}", style="confidence")
        return ComparedNumbers(difference, low, high, p, n, confidence)

    def make_claim(self, status: str, numbers: ComparedNumbers) -> Claim | None:
        """Return "better" or "worse" with the condition over the interval; None for another status."""
        is_above = {"better": self.is_maximized, "worse": not self.is_maximized}.get(status)
        if is_above is None:
            return None
        return Claim(status, f"{numbers.low.id} > 0" if is_above else f"{numbers.high.id} < 0")

    def spell_choice(self) -> list[Span]:
        """Return of how many trials the best was chosen, if that is known."""
        chosen = self.content.get("n_measured")
        if chosen is None:
            return []
        number = self.read(f"{self.folder}.chosen_from", chosen, "n_measured", style="whole")
        return ["; chosen from ", number, " trials"]

    def tabulate_seeds(self, has_row_for_seed: bool = True) -> ReportTable:
        """Return the value of every run, and the means: a row for each seed, or for each configuration."""
        names, columns = list(self.configs), {}
        for seed in self.content["seeds"]:
            runs = {name: self._find_run(name, seed) for name in names}
            if any(runs.values()):
                columns[f"seed {seed}"] = [self._make_cell(name, run) for name, run in runs.items()]
        means = [self.add_mean(name, self.metric) for name in names]
        head: Text = (Name(self.label), " (", Name(self.unit), ")") if self.unit else (Name(self.label),)
        cells: list[list[Text]] = [[head, *((Name(name),) for name in names)]]
        cells += [[(Name(seed),), *column] for seed, column in columns.items()]
        if any(means):
            cells.append([("mean",), *(DASH if mean is None else (Bare(mean),) for mean in means)])
        rows = [tuple(row) for row in (cells if has_row_for_seed else zip(*cells, strict=True))]
        return ReportTable(rows[0], tuple(rows[1:]))

    def _find_run(self, config: str, seed: int) -> Mapping[str, Any] | None:
        return next((run for run in self.configs[config]["runs"] if run["seed"] == seed), None)

    def _make_cell(self, config: str, run: Mapping[str, Any] | None) -> Text:
        if run is None:
            return DASH
        values = {number.id: number for number in self.list_values(config, self.metric)}
        number = values.get(self.make_id(config, f"seed {run['seed']}", self.metric))
        return (Bare(number),) if number else (Name(str(run["status"])),)

    def describe_method(self, comparisons: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Text]:
        """Return the notes on comparisons with their names, and the methods, each once."""
        notes: dict[str, list[Name]] = {}
        for name, one in comparisons:
            for note in one.get("notes") or ():
                notes.setdefault(str(note), []).append(Name(name))
        found: list[Text] = [
            (*join_spans(names), ": ", Quote(note, f"{self.file}, notes"), ".") for note, names in notes.items()
        ]
        methods = dict.fromkeys(str(one["method"]) for _, one in comparisons if one.get("method"))
        if methods:
            spans = join_spans([Quote(method, f"{self.file}, method") for method in methods], "; ")
            fresh = " The seeds are ones that no trial of the sweep had." if self.content.get("n_measured") else ""
            found.append(("Method: ", *spans, f".{fresh}"))
        return found

    def list_cost(self, name: str) -> CostItem:
        """Return the cost of the runs that are over, whatever their status."""
        runs = [run for config in self.content["configs"] for run in config["runs"]
                if run["status"] not in ("queued", "running")]  # fmt: skip
        tokens, seconds = (sum(run.get(key) or 0 for run in runs) for key in ("tokens", "seconds"))
        untimed = sum(not run.get("seconds") for run in runs)
        return CostItem(name, self.place, len(runs), int(tokens) or None, float(seconds) or None, untimed)


def spell_interval(numbers: ComparedNumbers) -> list[Span]:
    """Return the interval of a difference with confidence, p and n, to stand in parentheses."""
    return [
        "interval ", Bare(numbers.low), " to ", Bare(numbers.high), " at confidence ", numbers.confidence,
        ", p = ", numbers.p, ", n = ", numbers.n, " pairs of runs with the same seed",
    ]  # fmt: skip
