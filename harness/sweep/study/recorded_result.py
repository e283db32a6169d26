"""Read the result of a trial from the record of its run, for a worker that died before it could tell the study."""

from collections.abc import Sequence
from pathlib import Path

from harness.core.effective_settings import EffectiveSettings
from harness.record.metrics_file import TRIAL_FILE, find_record, read_entries
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
    """Return how far a trial of another program came that has reported a checkpoint, from which it can be continued.

    None if it has reported none, or its record cannot be read.
    """
    try:
        progress, _ = read_progress(folder / TRIAL_FILE)
    except (OSError, ValueError, LookupError, TypeError):
        return None
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


def _read_first_and_last(folder: Path) -> tuple[Entry, Entry]:
    entries = [entry for entry, _ in read_entries(find_record(folder)) if entry["kind"] in ("start", "end")]
    return entries[0], entries[-1]
