"""Forecasts of a run, written down before it and held against it: `epoch 5: val/loss < 3.2`."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.history import History

KIND = "expectation"
SYNTAX = "a forecast is 'step 1500: val/loss < 6.65', at a step, an epoch or tokens, with < or >"
PATTERN = re.compile(
    r"\s*(?P<unit>step|epoch|tokens)\s+(?P<at>\S+)\s*:\s*(?P<metric>[\w/.-]+)\s*(?P<sign>[<>])\s*(?P<bound>\S+)\s*"
)

Outcome = Literal["met", "missed", "not yet", "never reached", "not known"]
"""`never reached`: the run is over and there was no such evaluation; `not known`: nothing tells when an epoch or a
token count was reached."""


@dataclass(frozen=True)
class Expectation:
    """That `metric` lies below (`<`) or above (`>`) `bound` at the first evaluation at or after a moment."""

    text: str
    unit: Literal["step", "epoch", "tokens"]
    at: float
    metric: str
    sign: Literal["<", ">"]
    bound: float

    def evaluate(self, history: History) -> "ExpectationResult":
        """As far as the history goes; nothing is interpolated."""
        steps, values = history[self.metric]
        reached = self._find_reached(history, steps)
        if reached is None:
            return ExpectationResult(self, "not known")
        if not reached.any():
            return ExpectationResult(self, "never reached" if _has_ended(history) else "not yet")
        first = int(np.argmax(reached))
        seen = float(values[first])
        is_met = seen < self.bound if self.sign == "<" else seen > self.bound
        return ExpectationResult(self, "met" if is_met else "missed", int(steps[first]), seen)

    def _find_reached(self, history: History, steps: np.ndarray) -> np.ndarray | None:
        if self.unit == "step":
            return steps >= self.at
        if self.unit == "tokens":
            tokens = history.tokens_at(steps)
            return None if tokens is None else tokens >= self.at
        per_epoch = history.facts.steps_per_epoch
        return None if per_epoch is None else steps >= round(self.at * per_epoch)


@dataclass(frozen=True)
class ExpectationResult:
    """What came of a forecast: what was `seen`, at which `step`; None where it was not judged."""

    expectation: Expectation
    outcome: Outcome
    step: int | None = None
    value: float | None = None

    @property
    def deviation(self) -> float | None:
        """By how much the metric lies above the bound, or below it where it is negative."""
        return None if self.value is None else self.value - self.expectation.bound

    def __str__(self) -> str:
        """The forecast and what came of it, in a line."""
        said = f"{self.expectation.text}: {self.outcome}"
        if self.value is None:
            return said
        return f"{said}, {self.value:.4g} at step {self.step}, {abs(self.deviation):.3g} {_above_or_below(self.deviation)} it"


def parse_expectation(text: str) -> Expectation:
    """ValueError, with the grammar, for what is no forecast."""
    form = PATTERN.fullmatch(text) if isinstance(text, str) else None
    try:
        at, bound = (float(form[name].replace("_", "")) for name in ("at", "bound"))
    except (TypeError, ValueError):
        at = bound = float("nan")
    if not (0 <= at < float("inf") and bound == bound):
        raise ValueError(f"{text!r} is no forecast; {SYNTAX}")
    return Expectation(text.strip(), form["unit"], at, form["metric"], form["sign"], bound)


def find_missed_expectations(expectations: Iterable[Expectation], history: History) -> list[Diagnosis]:
    """A verdict for each forecast whose moment has passed and that did not hold."""
    judged = (expectation.evaluate(history) for expectation in expectations)
    return [_to_diagnosis(one) for one in judged if one.outcome == "missed"]


def summarize_expectations(judged: Sequence[ExpectationResult]) -> str:
    """How many forecasts held, and how far from its bound each metric lay on average; empty for no forecasts."""
    if not judged:
        return ""
    held = sum(one.outcome == "met" for one in judged)
    parts = [f"{held} of {len(judged)} forecasts held"]
    for outcome in ("missed", "not yet", "never reached", "not known"):
        count = sum(one.outcome == outcome for one in judged)
        parts += [f"{count} {outcome}"] if count else []
    errors = defaultdict(list)
    for one in judged:
        if one.deviation is not None:
            errors[one.expectation.metric].append(one.deviation)
    off = [
        f"{metric} lay {abs(mean(by)):.3g} {_above_or_below(mean(by))} its bounds on average"
        for metric, by in errors.items()
    ]
    return "; ".join([", ".join(parts), *off])


def _to_diagnosis(one: ExpectationResult) -> Diagnosis:
    wanted = one.expectation
    evidence = {"forecast": wanted.text, "seen": one.value, "bound": wanted.bound, "off by": abs(one.deviation)}
    reason = f"forecast {wanted.text!r} did not hold: {one.value:.4g}, {abs(one.deviation):.3g} {_above_or_below(one.deviation)} it"
    return Diagnosis(KIND, one.step, 1.0, reason, evidence)


def _above_or_below(error: float) -> str:
    return "above" if error > 0 else "below"


def _has_ended(history: History) -> bool:
    total = history.facts.total_steps
    return history.facts.status is not None or (total is not None and history.last_step >= total)
