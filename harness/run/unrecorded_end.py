"""Complete the record of a run whose process died after its last step, before it could record its end."""

from pathlib import Path

from harness.core.events import Notice, RunEnd
from harness.core.files import FileLock
from harness.record import metrics_file
from harness.record.event_entries import make_entries
from harness.run.run_dir import list_description_files
from harness.tracking.run_uploader import reopen_upload
from harness.training.checkpoint import choose_checkpoint, read_counters

COMPLETED_LATER = "the process died after the last step; the end was recorded later, from the last checkpoint"


def complete_record(folder: Path) -> RunEnd | None:
    """Append the end that is missing from the record of the run in `folder`, and return it.

    Return None if the record has an end, is being written, or lacks the checkpoint of its last step. That checkpoint
    proves that the record has every line before the end: a run saves none before its record is on the disk.
    """
    path, lock = folder / metrics_file.METRICS_FILE, FileLock(folder / metrics_file.METRICS_FILE, required=False)
    if not path.exists() or not lock.acquire(blocking=False):
        return None
    try:
        end = _find_missing_end(folder)
        if end is not None:
            notice = make_entries(Notice(COMPLETED_LATER), None, folder)
            metrics_file.append_entries(path, [*notice, *make_entries(end, None, folder)])
            reopen_upload(folder)
        return end
    finally:
        lock.release()


def _find_missing_end(folder: Path) -> RunEnd | None:
    try:
        entries = [entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)]
        if not entries or entries[0]["kind"] != "start" or any(entry["kind"] == "end" for entry in entries):
            return None
        checkpoint, _ = choose_checkpoint(folder / "checkpoints", "last")
        counters = read_counters(checkpoint)
        if counters["step"] != entries[0]["total_steps"]:
            return None
        seconds = (entries[-1]["at_ms"] - entries[0]["at_ms"]) / 1000
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return RunEnd(
        status="completed",
        reason="",
        step=counters["step"],
        tokens=counters["tokens"],
        seconds=seconds,
        best_val_loss=counters["best_val_loss"],
        best_step=counters["best_step"],
        artifacts=list_description_files(folder),
    )
