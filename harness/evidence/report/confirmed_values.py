"""The values of a confirmation as numbers of a report: single runs, and means over seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.evidence.report.numbers import Number, NumberBook, Reading
from harness.evidence.report.phrases import make_id
from harness.evidence.report.verdict_check import check_verdicts, read_float

PLACE = "confirm.json"
BASELINE = "baseline"


@dataclass
class Confirmed:
    """A confirmation: the content of confirm.json, the name of its study, and the unit of its metric.

    Raises:
        ConfigError: If a verdict is not what its runs give.
    """

    content: Mapping[str, Any]
    study: str
    unit: str
    book: NumberBook
    is_maximized: bool = field(init=False)

    def __post_init__(self) -> None:
        check_verdicts(self.content)
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
