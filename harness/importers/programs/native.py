"""A run of this harness, read from its metrics.jsonl."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from harness.core.checkpoint_names import list_saved_steps
from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import DamageError
from harness.core.paths import project_dir
from harness.diagnosis.history import SECONDS, History
from harness.diagnosis.run_facts import extract_run_facts, select_provenance
from harness.importers.programs.trial_history import read_trial_history
from harness.record.lr_range_file import add_data_digest, load_lr_band
from harness.record.metrics_file import parse_entries, read_entries
from harness.record.past_record import read_spike
from harness.record.trial_record import is_foreign
from harness.tracking.run_names import STUDY_TAG, format_run_name

FIELD_ERRORS = (KeyError, TypeError, ValueError, AttributeError)
"""Errors of reading fields that an entry lacks, or that are not what this harness writes."""


def read_native(path: Path, file: IO[bytes] | None = None) -> History:
    """Read a metrics.jsonl, which may be open, and the steps of the checkpoints beside it.

    Raises:
        ValueError: If the file is damaged or has no start entry.
    """
    history, rows, started_ms = History(), 0, 0
    entries = (entry for entry, _ in (parse_entries(file, path) if file else read_entries(path)))
    for entry in entries:
        if entry["kind"] == "start" and is_foreign(entry):
            return _read_trial(entry, entries, path)
        rows += entry["kind"] == "metrics"
        started_ms = started_ms or entry.get("at_ms", 0)
        try:
            if entry["kind"] == "continued":  # the time that the run was paused does not count
                started_ms = entry["at_ms"] - round(1000 * entry["seconds"])
            _add_entry(history, entry)
            if entry["kind"] == "metrics" and "at_ms" in entry and not _is_final_test(entry):
                history.add_points(SECONDS, [(entry["step"], (entry["at_ms"] - started_ms) / 1000)])
        except FIELD_ERRORS as error:
            what = f"{type(error).__name__}: {error}"
            raise ValueError(
                f"{path}: an entry of kind {entry['kind']!r} is not one of this harness ({what})"
            ) from error
    if not history.facts.name:
        raise ValueError(f"{path}: no start entry; the run never started")
    history.checkpoints += list_saved_steps(path.parent / "checkpoints")
    seconds = history.facts.seconds
    if seconds is None and len(history[SECONDS]):  # its process died
        seconds = float(history[SECONDS].values[-1])
    history.facts = replace(history.facts, source=f"our run {path.parent}: {rows} rows", seconds=seconds)
    return history


def _is_final_test(entry: Mapping[str, Any]) -> bool:
    """Return whether a row was measured on the test split, some time after its step."""
    return any(name.startswith("test/") for name in entry["metrics"])


def _read_trial(start: dict[str, Any], entries: Iterator[dict[str, Any]], path: Path) -> History:
    try:
        return read_trial_history(start, entries, path)
    except DamageError:
        raise
    except FIELD_ERRORS as error:
        what = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path}: not the record of a trial of this harness ({what})") from error


def read_start_entry(path: Path) -> dict[str, Any]:
    """Return the start entry of a metrics.jsonl, which describes the run; ValueError if there is none."""
    entry = next((entry for entry, _ in read_entries(path)), {})
    if entry.get("kind") != "start":
        raise ValueError(f"{path}: not the record of a run; the first line is not a start entry")
    return entry


def _add_entry(history: History, entry: Mapping[str, Any]) -> None:
    match entry["kind"]:
        case "start":
            params, effective = entry["params"], EffectiveSettings.from_json(entry["effective"])
            name = format_run_name(entry) if STUDY_TAG in entry["tags"] else entry["name"]
            facts = extract_run_facts(name, params, effective, entry["constants"], entry["dataset"])
            outputs = project_dir() / params.get("output_dir", "outputs")
            band = load_lr_band(outputs, add_data_digest(params, entry["dataset"]))
            facts = replace(facts, program="harness", total_steps=entry["total_steps"], lr_band=band)
            history.facts = replace(facts, provenance=select_provenance(entry["tags"]))
        case "metrics":
            history.add_row(entry["step"], entry["metrics"])
            unit = entry["units"].get("val/loss")
            if unit and unit != history.facts.unit:
                history.facts = replace(history.facts, unit=unit)
        case "spike":
            history.spikes.append(read_spike(entry))
        case "end":
            seconds = float(entry["seconds"]) if "seconds" in entry else None
            history.facts = replace(history.facts, status=entry["status"], seconds=seconds)
