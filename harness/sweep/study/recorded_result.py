"""Read the result of a trial from the record of its run, for a worker that died before it could tell the study."""

from collections.abc import Sequence
from pathlib import Path

from harness.core.checkpoint_names import checkpoint_name, list_saved_steps
from harness.core.effective_settings import EffectiveSettings
from harness.core.files import find_intact_folder, stays_locked
from harness.record.entry_writer import LOCK_WAIT_S
from harness.record.metrics_file import METRICS_FILE, TRIAL_FILE, find_record, read_entries
from harness.record.trial_record import Entry, is_foreign, read_progress
from harness.sweep.study.trial_attrs import TrialResult


def read_recorded_result(folder: Path, objectives: Sequence[str]) -> TrialResult | None:
    """Return the result of the completed run in `folder`, with the values of `objectives`.

    None if there is none, or its record is damaged. A run of this program that died after its last
    step counts as completed; its end is added to its record.
    """
    try:
        start, end = _read_first_and_last(folder)
        if not is_foreign(start) and end["kind"] != "end":
            from harness.run.unrecorded_end import complete_record  # imports torch, which other programs do without

            complete_record(folder)
            start, end = _read_first_and_last(folder)
        if end["kind"] != "end" or end["status"] != "completed":
            return None
        effective = None if is_foreign(start) else EffectiveSettings.from_json(start["effective"])
        if effective is None:
            measured = end["values"]
        else:
            measured = {**end, "trainable_parameters": effective.trainable_parameters}
        return TrialResult(
            status="completed",
            values=tuple(float(measured[name]) for name in objectives),
            best_step=end.get("best_step"),
            tokens=end["tokens"],
            seconds=end["seconds"],
            fraction_done=1.0,
            folder=folder.name,
            threads=effective.threads if effective else 0,
            device=effective.device if effective else "",
        )
    except (OSError, ValueError, LookupError, TypeError):
        return None


def read_interrupted_result(folder: Path) -> TrialResult | None:
    """Return how far a trial came whose worker died, if it can be continued from a checkpoint.

    None if it has no checkpoint, if its record cannot be read or is being written, or if it diverged.
    """
    try:
        start, end = _read_first_and_last(folder)
        if is_foreign(start):
            return _read_interrupted_program(folder)
        has_diverged = end["kind"] == "end" and end["status"] == "diverged"
        return None if has_diverged else _read_interrupted_training(folder, start)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _read_interrupted_program(folder: Path) -> TrialResult | None:
    progress, _ = read_progress(folder / TRIAL_FILE)
    if progress.checkpoint is None:
        return None
    return TrialResult(
        status="interrupted",
        reason="its worker died",
        seconds=progress.seconds,
        fraction_done=min(1.0, progress.step / progress.total_steps) if progress.total_steps else 0.0,
        folder=folder.name,
        checkpoint=progress.checkpoint.path,
    )


def _read_interrupted_training(folder: Path, start: Entry) -> TrialResult | None:
    from harness.training.checkpoint import read_counters, read_record_position  # imports torch

    checkpoints = folder / "checkpoints"
    steps = list_saved_steps(checkpoints)
    if not steps or stays_locked(folder / METRICS_FILE, LOCK_WAIT_S):
        return None
    newest = find_intact_folder(checkpoints / checkpoint_name(steps[-1]))
    counters, effective = read_counters(newest), EffectiveSettings.from_json(start["effective"])
    first, total = effective.first_step, effective.total_steps
    return TrialResult(
        status="interrupted",
        reason="its worker died",
        tokens=counters["tokens"],
        seconds=read_record_position(newest)["seconds"],
        fraction_done=(counters["step"] - first) / max(1, total - first),
        folder=folder.name,
        threads=effective.threads,
        device=effective.device,
        checkpoint=str(checkpoints),
    )


def _read_first_and_last(folder: Path) -> tuple[Entry, Entry]:
    entries = [entry for entry, _ in read_entries(find_record(folder)) if entry["kind"] in ("start", "end")]
    return entries[0], entries[-1]
