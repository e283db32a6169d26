"""A run of ours, read back from its plain record."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.effective_settings import EffectiveSettings
from harness.core.paths import project_dir
from harness.diagnosis.history import History, SpikeRecord
from harness.diagnosis.lr_band import load_lr_band
from harness.diagnosis.run_facts import extract_run_facts
from harness.record import metrics_file
from harness.training.checkpoint import list_saved_steps


def read_native(path: Path) -> History:
    """The history of the run whose metrics.jsonl this is; ValueError where that run never began."""
    history = History()
    rows = 0
    for entry, _ in metrics_file.read_entries(path):
        rows += entry["kind"] == "metrics"
        _add_entry(history, entry)
    if not history.facts.name:
        raise ValueError(f"{path} is empty: that run never began")
    checkpoints = path.parent / "checkpoints"
    history.checkpoints += list_saved_steps(checkpoints) if checkpoints.is_dir() else []
    history.facts = replace(history.facts, source=f"our run {path.parent}: {rows} rows")
    return history


def read_start_entry(path: Path) -> dict[str, Any]:
    """The line in which a record says what the run is; ValueError where there is none."""
    entry = next((entry for entry, _ in metrics_file.read_entries(path)), {})
    if entry.get("kind") != "start":
        raise ValueError(f"{path} is no record of a run: it does not begin with its start")
    return entry


def _add_entry(history: History, entry: Mapping[str, Any]) -> None:
    match entry["kind"]:
        case "start":
            params = entry["params"]
            effective = EffectiveSettings.from_json(entry["effective"])
            facts = extract_run_facts(entry["name"], params, effective, entry["constants"])
            outputs = project_dir() / params.get("output_dir", "outputs")
            history.facts = replace(facts, total_steps=entry["total_steps"], lr_band=load_lr_band(outputs, params))
        case "metrics":
            history.add_row(entry["step"], entry["metrics"])
            unit = entry["units"].get("val/loss")
            if unit and unit != history.facts.unit:
                history.facts = replace(history.facts, unit=unit)
        case "spike":
            examples = tuple(entry["example_range"]) if entry.get("example_range") else None
            seen = (entry[name] for name in ("step", "last_good_step", "loss", "baseline_loss"))
            history.spikes.append(SpikeRecord(*seen, examples, entry["restored_step"]))
        case "end":
            history.facts = replace(history.facts, status=entry["status"])
