"""A trial of a sweep that another program ran, read from the record that the sweep made of it."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.diagnosis.history import LOSS_METRICS, SECONDS, History, RunFacts
from harness.diagnosis.run_facts import select_provenance
from harness.importers.metric_aliases import build_history, canonical_name
from harness.importers.programs.lr_schedules import schedule_from_params
from harness.importers.programs.param_facts import read_param_facts
from harness.record.trial_record import read_directions
from harness.tracking.run_names import format_run_name

UNNAMED_OBJECTIVE = "objective"
"""The name of an objective of unknown meaning. Elsewhere, the word means a loss."""


def read_trial_history(start: Mapping[str, Any], entries: Iterable[Mapping[str, Any]], path: Path) -> History:
    """Return the curves of a trial by the meaning of the names that the program reported them under.

    What is maximized is no loss, whatever its name. If no name means a loss, a note of the facts says so.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: If an entry is not one of a trial.
    """
    objectives = read_directions(start)
    points: dict[str, list[tuple[int, float]]] = {}
    status, total_steps, rows, values = None, start["total_steps"], 0, None
    seconds: list[tuple[int, float]] = []
    took, began_at = None, start.get("at_ms", 0)
    for entry in entries:
        if entry["kind"] == "continue":  # leave out the pause
            began_at = entry["at_ms"] - 1000 * entry["seconds"]
        if entry["kind"] == "metrics":
            rows += 1
            seconds.append((entry["step"], (entry.get("at_ms", 0) - began_at) / 1000))
            total_steps = entry.get("total_steps", total_steps)
            for name, value in entry["metrics"].items():
                points.setdefault(name, []).append((entry["step"], value))
        if entry["kind"] == "end":
            status, values, took = entry["status"], entry.get("values"), entry.get("seconds")
    losses = {name: curve for name, curve in points.items() if not _is_unclear(name, objectives)}
    settings = start["params"] | {key: str(value) for key, value in start["searched"].items()}
    numbers = read_param_facts(settings)
    total_steps = numbers.pop("total_steps", None) if total_steps is None else total_steps
    facts = RunFacts(
        name=format_run_name(start),
        status=status,
        total_steps=total_steps,
        settings=settings,
        provenance=select_provenance(start["tags"]),
        seconds=took if took is not None else seconds[-1][1] if seconds else None,
        objectives={name: float(value) for name, value in (values or {}).items()},
        **{key: value for key, value in numbers.items() if key != "total_steps"},
        **schedule_from_params(start["params"], total_steps),
    )
    history = build_history(losses, facts)
    history.add_points(SECONDS, seconds)
    if not any(len(history[metric]) for metric in LOSS_METRICS):
        names = ", ".join(sorted(points)) or "none"
        note = f"{history.facts.name}: no metric that the program reported names a loss; its metrics: {names}"
        history.facts = replace(history.facts, notes=(note,))
    history.facts = replace(history.facts, source=f"trial {path.parent} of another program: {rows} rows")
    return history


def _is_unclear(name: str, objectives: Mapping[str, str]) -> bool:
    is_maximized = objectives.get(name) == "maximize" and canonical_name(name) in LOSS_METRICS
    return name == UNNAMED_OBJECTIVE or is_maximized
