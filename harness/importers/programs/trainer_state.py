"""trainer_state.json, which the transformers Trainer saves with each checkpoint."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.diagnosis.history import History, RunFacts
from harness.importers.assembly.step_numbering import round_step
from harness.importers.metric_aliases import SUMMARY_KEY, build_history
from harness.importers.programs.lr_schedules import schedule_from_state

RECORDED_ARGUMENTS = (
    "max_steps", "num_train_epochs", "train_batch_size", "eval_steps", "logging_steps", "save_steps",
)  # fmt: skip
"""Arguments of the Trainer that its state holds."""
RUNTIME = "train_runtime"
"""Seconds of training, which the Trainer logs at the end."""


def read_trainer_state(state: dict[str, Any], path: Path) -> History:
    """Read the log_history of the state in the file `path`; ValueError if it is empty."""
    logged = state["log_history"]
    if not isinstance(logged, list) or not all(isinstance(entry, dict) for entry in logged):
        raise ValueError(f"{path}: log_history is not a list of entries, so this is not a trainer_state.json")
    entries = [entry for entry in logged if "step" in entry and SUMMARY_KEY not in entry]
    if not entries:
        raise ValueError(f"{path}: log_history is empty; the trainer has not logged a step yet")
    points: dict[str, list[tuple[int, float]]] = {}
    for number, entry in enumerate(entries, 1):
        step = round_step(entry["step"], f"{path}, entry {number}")
        for name, value in entry.items():
            if isinstance(value, int | float):
                points.setdefault(name, []).append((step, float(value)))
    history = build_history(points, _read_facts(state, path))
    history.facts = replace(history.facts, source=f"transformers Trainer {path}: {len(entries)} log entries")
    return history


def _read_facts(state: dict[str, Any], path: Path) -> RunFacts:
    total_steps, step = state.get("max_steps") or None, state.get("global_step", 0)
    folder = path.absolute().parent
    name = folder.parent.name if folder.name.startswith("checkpoint-") else folder.name
    return RunFacts(
        program="transformers",
        name=name if path.name == "trainer_state.json" else path.stem,
        status="completed" if total_steps and step >= total_steps else None,
        total_steps=total_steps,
        settings={key: str(state[key]) for key in RECORDED_ARGUMENTS if state.get(key) is not None},
        seconds=next((entry[RUNTIME] for entry in reversed(state["log_history"]) if RUNTIME in entry), None),
        **schedule_from_state(folder, [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]),
    )
