"""trainer_state.json, as the Trainer of transformers saves it beside a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

from harness.diagnosis.history import History, RunFacts
from harness.importers.lr_schedules import schedule_from_state
from harness.importers.metric_aliases import SUMMARY_KEY, build_history
from harness.importers.step_numbering import round_step


def read_trainer_state(path: Path) -> History:
    """ValueError where the file holds no log of a trainer."""
    state = json.loads(path.read_text(encoding="utf-8-sig"))
    entries = [entry for entry in state["log_history"] if "step" in entry and SUMMARY_KEY not in entry]
    if not entries:
        raise ValueError(f"{path}: its log_history is empty; the trainer had not logged a step yet")
    points: dict[str, list[tuple[int, float]]] = {}
    for number, entry in enumerate(entries, 1):
        at = round_step(entry["step"], f"{path}, entry {number}")
        for name, value in entry.items():
            if isinstance(value, int | float):
                points.setdefault(name, []).append((at, float(value)))
    history = build_history(points, _read_facts(state, path))
    history.facts = replace(history.facts, source=f"{path}: {len(entries)} entries of a transformers Trainer")
    return history


def _read_facts(state: dict, path: Path) -> RunFacts:
    total, done = state.get("max_steps") or None, state.get("global_step", 0)
    folder = path.absolute().parent
    return RunFacts(
        name=folder.parent.name if folder.name.startswith("checkpoint-") else folder.name,
        status="completed" if total and done >= total else None,
        total_steps=total,
        **schedule_from_state(folder, [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]),
    )
