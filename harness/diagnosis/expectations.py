"""Forecasts of a run, written down before it and held against it: `epoch 5: val/loss < 3.2`."""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Literal

import numpy as np

from harness.core.events import Verdict
from harness.diagnosis.history import History

KIND = "expectation"
GRAMMAR = "a forecast is 'step 1500: val/loss < 6.65', at a step, an epoch or tokens, with < or >"
FORM = re.compile(
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

    def judge(self, history: History) -> "Judged":
        """As far as the history goes; nothing is interpolated."""
        steps, values = history[self.metric]
        reached = self._reached(history, steps)
        if reached is None:
            return Judged(self, "not known")
        if not reached.any():
            return Judged(self, "never reached" if _is_over(history) else "not yet")
        first = int(np.argmax(reached))
        seen = float(values[first])
        is_met = seen < self.bound if self.sign == "<" else seen > self.bound
        return Judged(self, "met" if is_met else "missed", int(steps[first]), seen)

    def _reached(self, history: History, steps: np.ndarray) -> np.ndarray | None:
        if self.unit == "step":
            return steps >= self.at
        if self.unit == "tokens":
            tokens = history.tokens(steps)
            return None if tokens is None else tokens >= self.at
        per_epoch = history.facts.steps_per_epoch
        return None if per_epoch is None else steps >= round(self.at * per_epoch)


@dataclass(frozen=True)
class Judged:
    """What came of a forecast: what was `seen`, at which `step`; None where it was not judged."""

    expectation: Expectation
    outcome: Outcome
    step: int | None = None
    seen: float | None = None

    @property
    def error(self) -> float | None:
        """By how much the metric lies above the bound, or below it where it is negative."""
        return None if self.seen is None else self.seen - self.expectation.bound

    def __str__(self) -> str:
        """The forecast and what came of it, in a line."""
        said = f"{self.expectation.text}: {self.outcome}"
        if self.seen is None:
            return said
        return f"{said}, {self.seen:.4g} at step {self.step}, {abs(self.error):.3g} {_side(self.error)} it"


def parse(text: str) -> Expectation:
    """ValueError, with the grammar, for what is no forecast."""
    form = FORM.fullmatch(text) if isinstance(text, str) else None
    try:
        at, bound = (float(form[name].replace("_", "")) for name in ("at", "bound"))
    except (TypeError, ValueError):
        at = bound = float("nan")
    if not (0 <= at < float("inf") and bound == bound):
        raise ValueError(f"{text!r} is no forecast; {GRAMMAR}")
    return Expectation(text.strip(), form["unit"], at, form["metric"], form["sign"], bound)


def missed(expectations: Iterable[Expectation], history: History) -> list[Verdict]:
    """A verdict for each forecast whose moment has passed and that did not hold."""
    judged = (expectation.judge(history) for expectation in expectations)
    return [_verdict(one) for one in judged if one.outcome == "missed"]


def score(judged: Sequence[Judged]) -> str:
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
        if one.error is not None:
            errors[one.expectation.metric].append(one.error)
    off = [f"{metric} lay {abs(mean(by)):.3g} {_side(mean(by))} its bounds on average" for metric, by in errors.items()]
    return "; ".join([", ".join(parts), *off])


def _verdict(one: Judged) -> Verdict:
    wanted = one.expectation
    evidence = {"forecast": wanted.text, "seen": one.seen, "bound": wanted.bound, "off by": abs(one.error)}
    reason = f"forecast {wanted.text!r} did not hold: {one.seen:.4g}, {abs(one.error):.3g} {_side(one.error)} it"
    return Verdict(KIND, one.step, 1.0, reason, evidence)


def _side(error: float) -> str:
    return "above" if error > 0 else "below"


def _is_over(history: History) -> bool:
    total = history.facts.total_steps
    return history.facts.status is not None or (total is not None and history.last_step >= total)
