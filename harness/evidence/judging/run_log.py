"""Runs of a tuning loop, in the order in which they were logged, and the configurations that they belong to."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from harness.record.trial_record import Direction

Outcome = Literal["keep", "discard", "baseline", "crash", ""]


@dataclass(frozen=True, eq=False)
class LoggedRun:
    """One run. `value` is None if it has none, for the reason `problem`; `config` is the key of its configuration."""

    number: int
    name: str
    config: str
    value: float | None
    problem: str = ""
    seed: str | None = None
    outcome: Outcome = ""
    is_baseline: bool = False
    description: str = ""
    cells: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LoggedConfig:
    """A configuration with its runs."""

    key: str
    runs: tuple[LoggedRun, ...]

    @property
    def first_number(self) -> int:
        return self.runs[0].number

    @property
    def label(self) -> str:
        first = self.runs[0]
        return "baseline" if first.is_baseline else first.name

    @cached_property
    def is_baseline(self) -> bool:
        return any(run.is_baseline for run in self.runs)

    @cached_property
    def measured(self) -> tuple[LoggedRun, ...]:
        """Runs with a value; of several with one seed, the first."""
        seen: set[str] = set()
        found = []
        for run in self.runs:
            if run.value is not None and (run.seed is None or run.seed not in seen):
                found.append(run)
                seen |= {run.seed} if run.seed is not None else set()
        return tuple(found)

    @cached_property
    def values(self) -> list[float]:
        return [run.value for run in self.measured if run.value is not None]

    @cached_property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) if self.values else math.nan


@dataclass(frozen=True, eq=False)
class RunLog:
    """The runs of a loop, and what is known of their metric.

    Args:
        unit_name: How a run is called in messages: "row" or "trial".
        names_seeds: Whether the runs name their seeds.
        rerun_command: The command that runs both sides on fresh seeds; empty for a log of somebody else's runs.
        chooses_best: Whether the best run is the candidate, as in a study, and not the last one.
    """

    source: str
    metric: str
    direction: Direction
    runs: tuple[LoggedRun, ...]
    notes: tuple[str, ...] = ()
    unit_name: str = "row"
    names_seeds: bool = False
    rerun_command: str = ""
    chooses_best: bool = False

    @cached_property
    def configs(self) -> tuple[LoggedConfig, ...]:
        """All configurations, in the order of their first runs."""
        groups: dict[str, list[LoggedRun]] = {}
        for run in self.runs:
            groups.setdefault(run.config, []).append(run)
        return tuple(LoggedConfig(key, tuple(runs)) for key, runs in groups.items())

    @property
    def sign(self) -> int:
        """1 where less is better, else -1; values times it are costs."""
        return -1 if self.direction == "maximize" else 1


def describe_runs(runs: Sequence[LoggedRun], unit_name: str) -> str:
    """Return "row 4" or "rows 1, 2 and 5"."""
    numbers = [str(run.number) for run in runs]
    if len(numbers) == 1:
        return f"{unit_name} {numbers[0]}"
    return f"{unit_name}s {', '.join(numbers[:-1])} and {numbers[-1]}" if numbers else f"no {unit_name}"
