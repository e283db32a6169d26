"""Result of judging the last change of a loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.evidence.judging.run_log import LoggedConfig, RunLog
from harness.record.trial_record import Direction

Verdict = Literal["keep", "discard", "not comparable", "cannot tell"]
EXIT_STATUS: dict[Verdict, int] = {"keep": 0, "discard": 1, "not comparable": 2, "cannot tell": 2}
JSON_SCHEMA = 1


@dataclass(frozen=True)
class JudgedSide:
    """The runs of a configuration that a judgement used."""

    name: str
    runs: tuple[int, ...]
    values: tuple[float, ...]
    mean: float | None

    @classmethod
    def from_config(cls, config: LoggedConfig) -> "JudgedSide":
        numbers = tuple(run.number for run in config.measured)
        return cls(config.label, numbers, tuple(config.values), config.mean if numbers else None)


@dataclass(frozen=True)
class NoiseFloor:
    """Standard deviation of repeated runs of one configuration; `sd` is None if it could not be measured."""

    sd: float | None
    freedom: int
    runs: tuple[int, ...]
    about: str


@dataclass(frozen=True)
class Evidence:
    """A test of the difference, candidate minus reference, in the unit of the metric.

    `p` is at most `level` exactly where [low, high], the interval at `confidence`, excludes zero on the better side.
    """

    difference: float
    low: float
    high: float
    confidence: float
    p: float
    level: float
    method: str
    n_reference: int
    n_candidate: int
    shows_better: bool


@dataclass(frozen=True)
class Judgement:
    """A verdict with its reasons, and what to do next.

    Args:
        tries: Configurations with a value up to the candidate, without the baseline.
        rerun_number: Place of the candidate among those that were run more than once; 0 if it was run once.
        needed: More runs that a decision needs, by side: "candidate" or "reference".
    """

    verdict: Verdict
    reasons: tuple[str, ...]
    source: str
    metric: str
    direction: Direction
    candidate: JudgedSide | None = None
    reference: JudgedSide | None = None
    noise: NoiseFloor | None = None
    evidence: Evidence | None = None
    tries: int = 0
    rerun_number: int = 0
    needed: tuple[tuple[str, int], ...] = ()
    next: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def exit_status(self) -> int:
        return EXIT_STATUS[self.verdict]


def make_judgement(log: RunLog, verdict: Verdict, reasons: Sequence[str], **fields: Any) -> Judgement:
    """Return a judgement on a log."""
    fields["notes"] = (*log.notes, *fields.get("notes", ()))
    return Judgement(verdict, tuple(reasons), log.source, log.metric, log.direction, **fields)
