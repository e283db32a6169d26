"""Expectations: forecasts written down before a run and checked against it, such as `epoch 5: val/loss < 3.2`."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import Evidence, History

KIND = "expectation"
SYNTAX = "write 'step 1500: val/loss < 6.65', with step, epoch or tokens, and < or >"
PATTERN = re.compile(
    r"\s*(?P<unit>step|epoch|tokens)\s+(?P<at>\S+)\s*:\s*(?P<metric>[\w/.-]+)\s*(?P<sign>[<>])\s*(?P<bound>\S+)\s*"
)

# `not reached`: the run ended before that moment. `unknown`: nothing says when an epoch or token count was reached.
Outcome = Literal["met", "missed", "pending", "not reached", "unknown"]


@dataclass(frozen=True)
class Expectation:
    """A claim that `metric` is below (<) or above (>) `bound` at the first evaluation from a moment on."""

    text: str
    unit: str  # step, epoch or tokens
    at: float
    metric: str
    sign: str
    bound: float

    def evaluate(self, history: History) -> "ExpectationResult":
        """Compare with the history so far, without interpolating between evaluations."""
        steps, values = history[self.metric]
        reached = self._find_reached(history, steps)
        if reached is None:
            return ExpectationResult(self, "unknown")
        if not reached.any():
            return ExpectationResult(self, "not reached" if _has_ended(history) else "pending")
        first = int(np.argmax(reached))
        step, value = int(steps[first]), float(values[first])
        is_met = value < self.bound if self.sign == "<" else value > self.bound
        return ExpectationResult(self, "met" if is_met else "missed", step, value, history.describe_step(step))

    def _find_reached(self, history: History, steps: np.ndarray) -> np.ndarray | None:
        """Return a mask of the steps at or after the moment; None if unknown."""
        if self.unit == "step":
            return steps >= self.at
        if self.unit == "tokens":
            tokens = history.tokens_at(steps)
            return None if tokens is None else tokens >= self.at
        per_epoch = history.facts.steps_per_epoch
        return None if per_epoch is None else steps >= round(self.at * per_epoch)


@dataclass(frozen=True)
class ExpectationResult:
    """Outcome of an expectation: the `value` at `step`, or 0 and NaN if it could not be compared yet."""

    expectation: Expectation
    outcome: Outcome
    step: int = 0
    value: float = float("nan")
    when: str = ""  # the step in words, or the epoch

    @property
    def is_decided(self) -> bool:
        return self.outcome in ("met", "missed")

    @property
    def deviation(self) -> float:
        """Return the distance from the bound, positive above it."""
        return self.value - self.expectation.bound

    def __str__(self) -> str:
        line = f"{self.expectation.text}: {self.outcome}"
        if not self.is_decided:
            return line
        return f"{line} ({self.value:.4g} at {self.when}, {_format_deviation(self.deviation)})"


def parse_expectation(text: object) -> Expectation:
    """Parse an expectation; raise ValueError with the syntax if it is malformed."""
    match = PATTERN.fullmatch(text) if isinstance(text, str) else None
    if match:
        with suppress(ValueError):  # not a number
            at, bound = (float(match[name].replace("_", "")) for name in ("at", "bound"))
            if 0 <= at < float("inf") and bound == bound:
                return Expectation(match.string.strip(), match["unit"], at, match["metric"], match["sign"], bound)
    raise ValueError(f"{text!r} is not a valid expectation; {SYNTAX}")


def find_missed_expectations(expectations: Iterable[Expectation], history: History) -> list[Diagnosis]:
    """Return a diagnosis for every expectation that was missed so far."""
    results = (expectation.evaluate(history) for expectation in expectations)
    return [_to_diagnosis(result) for result in results if result.outcome == "missed"]


def summarize_expectations(results: Sequence[ExpectationResult]) -> str:
    """Return the number of each outcome and the mean deviation of each metric; empty without results."""
    if not results:
        return ""
    met = sum(result.outcome == "met" for result in results)
    counts = [f"{met} of {len(results)} expectations met"]
    for outcome in ("missed", "pending", "not reached", "unknown"):
        count = sum(result.outcome == outcome for result in results)
        counts += [f"{count} {outcome}"] if count else []
    deviations = defaultdict(list)
    for result in results:
        if result.is_decided:
            deviations[result.expectation.metric].append(result.deviation)
    means = [
        f"{metric} was {_format_deviation(mean(each))} its bound on average" for metric, each in deviations.items()
    ]
    return "; ".join([", ".join(counts), *means])


def _to_diagnosis(result: ExpectationResult) -> Diagnosis:
    wanted = result.expectation
    reason = f"expected {wanted.text!r}, got {result.value:.4g} ({_format_deviation(result.deviation)})"
    evidence: Evidence = {
        "expectation": wanted.text,
        "value": result.value,
        "bound": wanted.bound,
        "deviation": result.deviation,
    }
    return Diagnosis(KIND, result.step, 1.0, reason, evidence)


def _format_deviation(deviation: float) -> str:
    return f"{abs(deviation):.3g} {'above' if deviation > 0 else 'below'}"


def _has_ended(history: History) -> bool:
    total = history.facts.total_steps
    return history.facts.status is not None or (total is not None and history.last_step >= total)
