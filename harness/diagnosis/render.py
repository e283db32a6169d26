"""The report on a run, as lines for the terminal or as JSON: what was read, its diagnoses, and what to try."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from harness.core.events import Diagnosis
from harness.core.terminal import wrap_text
from harness.diagnosis.assessment import Assessment
from harness.diagnosis.dialects import Dialect, render_suggestions
from harness.diagnosis.expectations import ExpectationResult, summarize_expectations
from harness.diagnosis.history import LOSS_METRICS, History, RunFacts
from harness.diagnosis.plateau_window import drop_non_finite

COUNTED_METRICS = ("train/loss", "val/loss", "train/lr", "train/grad_norm", "train/tokens")
# Facts that are no settings of the run, or that the JSON has elsewhere.
OTHER_FACTS = (
    "name",
    "source",
    "program",
    "status",
    "steps_unit",
    "epoch_offset",
    "expect",
    "notes",
    "data",
    "objective",
    "parameters",
    "trainable_parameters",
    "seconds",
    "settings",
    "provenance",
    "objectives",
)


@dataclass(frozen=True)
class RunReport:
    """A history, what was found in it, and the dialect in which suggestions are said."""

    history: History
    diagnoses: Sequence[Diagnosis]
    assessment: Assessment
    expectations: Sequence[ExpectationResult] = ()
    dialect: Dialect = "harness"

    @property
    def name(self) -> str:
        return self.history.facts.name or "unnamed"

    @property
    def kinds(self) -> set[str]:
        """Return the kinds of all diagnoses, and "expectation" if one was missed."""
        missed = any(result.outcome == "missed" for result in self.expectations)
        return {*(diagnosis.kind for diagnosis in self.diagnoses), *(("expectation",) if missed else ())}

    def to_json(self) -> dict[str, Any]:
        """Return the schema of docs/diagnosing.md; numbers that are not finite are text."""
        history, facts = self.history, self.history.facts
        best = find_best_loss(history)
        known = {field.name: getattr(facts, field.name) for field in fields(RunFacts) if field.name not in OTHER_FACTS}
        result = {
            "name": self.name,
            "source": facts.source,
            "program": facts.program,
            "status": facts.status,
            "notes": facts.notes,
            "last_step": history.last_step,
            "steps_unit": facts.steps_unit,
            "facts": {name: value for name, value in known.items() if value is not None},
            "counts": _count_points(history),
            "last": {name: float(history[name].values[-1]) for name in COUNTED_METRICS if len(history[name])},
            "best": None if best is None else {"step": best[0], "val_loss": best[1]},
            "dialect": self.dialect,
            "diagnoses": [self._diagnosis_to_json(diagnosis) for diagnosis in self.diagnoses],
            "assessment": asdict(self.assessment) | ({"conclusion": None} if self.diagnoses else {}),
            "expectations": [
                {"text": one.expectation.text, "outcome": one.outcome, "value": one.value if one.is_decided else None}
                for one in self.expectations
            ],
        }
        return {name: _to_plain(value) for name, value in result.items()}

    def _diagnosis_to_json(self, diagnosis: Diagnosis) -> dict[str, Any]:
        suggestions = [
            {**asdict(one), "rendered": "; ".join(render_suggestions([one], self.dialect))}
            for one in diagnosis.suggestions
        ]
        when = self.history.describe_step(diagnosis.step)
        return {**asdict(diagnosis), "when": when, "suggestions": suggestions}


def format_diagnoses(
    diagnoses: Iterable[Diagnosis], width: int, history: History | None = None, dialect: Dialect = "harness"
) -> Iterator[str]:
    """Yield for each diagnosis a line with kind, step and confidence, the reason, and the settings to try.

    The settings have lines of their own, unbroken, to be copied. The step is an epoch if `history` counts epochs.
    """
    for diagnosis in diagnoses:
        when = (history or History()).describe_step(diagnosis.step)
        yield f"  {diagnosis.kind} · {when} · confidence {diagnosis.confidence:.0%}"
        yield from wrap_text(diagnosis.reason, width, "    ", "    ")
        yield from format_suggestions(diagnosis, "    ", dialect)


def format_suggestions(diagnosis: Diagnosis, indent: str, dialect: Dialect = "harness") -> Iterator[str]:
    """Yield "try" and lines with the settings; nothing if there are none."""
    lines = render_suggestions(diagnosis.suggestions, dialect)
    if lines:
        yield f"{indent}try"
        yield from (f"{indent}  {line}" for line in lines)


def describe_history(history: History) -> Iterator[str]:
    """Yield what was read: the source, the length, the number of points, and the last and the best losses."""
    facts = history.facts
    yield facts.source
    counts = [f"{count} of {name}" for name, count in _count_points(history).items()]
    yield " · ".join(filter(None, (facts.status, describe_length(history), f"points: {', '.join(counts)}")))
    if losses := " · ".join(describe_losses(history)):
        yield losses


def describe_length(history: History) -> str:
    """Return "step 240 of 1000", or epochs for a log that counts epochs."""
    length, total = history.describe_step(history.last_step), history.facts.total_steps
    return f"{length} of {history.describe_step(total).partition(' ')[2]}" if total else length


def describe_losses(history: History) -> Iterator[str]:
    """Yield the last loss of each kind, and the best validation loss."""
    for name in LOSS_METRICS:
        if len(history[name]):
            last = float(history[name].values[-1])
            yield f"last {name} {last:.4g}" if math.isfinite(last) else f"last {name} not finite"
    best = find_best_loss(history)
    if best is not None:
        unit = f" {history.facts.unit}" if history.facts.unit else ""
        yield f"best validation loss {best[1]:.4g}{unit} at {history.describe_step(best[0])}"


def describe_expectations(results: Sequence[ExpectationResult]) -> list[str]:
    """Return a line for each expectation, and their summary; empty without any."""
    return [*map(str, results), summarize_expectations(results)] if results else []


def find_best_loss(history: History) -> tuple[int, float] | None:
    """Return the step and the value of the lowest validation loss; None if there is none."""
    losses = drop_non_finite(history["val/loss"])
    if not len(losses):
        return None
    best = int(np.argmin(losses.values))
    return int(losses.steps[best]), float(losses.values[best])


def _count_points(history: History) -> dict[str, int]:
    return {name: len(history[name]) for name in COUNTED_METRICS if len(history[name])}


def _to_plain(value: Any) -> Any:
    """Return what JSON can hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _to_plain(inner) for name, inner in value.items()}
    return [_to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
