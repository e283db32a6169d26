"""trainer_state.json, as the Trainer of transformers saves it beside a checkpoint."""

import json
from dataclasses import replace
from pathlib import Path

from harness.diagnosis.history import Facts, History
from harness.importers.lr_schedules import saved
from harness.importers.metric_aliases import OF_THE_WHOLE, history_of
from harness.importers.step_numbering import whole


def read(path: Path) -> History:
    """ValueError where the file holds no log of a trainer."""
    state = json.loads(path.read_text(encoding="utf-8-sig"))
    entries = [entry for entry in state["log_history"] if "step" in entry and OF_THE_WHOLE not in entry]
    if not entries:
        raise ValueError(f"{path}: its log_history is empty; the trainer had not logged a step yet")
    points: dict[str, list[tuple[int, float]]] = {}
    for number, entry in enumerate(entries, 1):
        at = whole(entry["step"], f"{path}, entry {number}")
        for name, value in entry.items():
            if isinstance(value, int | float):
                points.setdefault(name, []).append((at, float(value)))
    history = history_of(points, _facts(state, path))
    history.facts = replace(history.facts, source=f"{path}: {len(entries)} entries of a transformers Trainer")
    return history


def _facts(state: dict, path: Path) -> Facts:
    total, done = state.get("max_steps") or None, state.get("global_step", 0)
    folder = path.absolute().parent
    return Facts(
        name=folder.parent.name if folder.name.startswith("checkpoint-") else folder.name,
        status="completed" if total and done >= total else None,
        total_steps=total,
        **saved(folder, [entry["eval_loss"] for entry in state["log_history"] if "eval_loss" in entry]),
    )
