"""Complete the record of a run whose process died after its last step, before it could record its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.core.events import Notice, RunEnd
from harness.core.files import FileLock
from harness.record import metrics_file
from harness.record.event_entries import make_entries
from harness.run.run_dir import list_description_files
from harness.tracking.upload_cursor import reopen_upload
from harness.training.checkpoint import choose_checkpoint, read_counters, read_record_position

COMPLETED_LATER = "the process died after the last step; the end was recorded later, from the last checkpoint"


def complete_record(folder: Path) -> RunEnd | None:
    """Append the end that is missing from the record of the run in `folder`, and return it.

    Return None if the record has an end, is being written, or lacks the checkpoint of its last step or the test loss
    that was asked for. That checkpoint
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


def _scores_test(start: Mapping[str, Any]) -> bool:
    return start["params"].get("score_test") == "True"


def _find_test_loss(entries: Sequence[Mapping[str, Any]]) -> float | None:
    losses = [entry["metrics"]["test/loss"] for entry in entries if "test/loss" in entry.get("metrics", {})]
    return losses[-1] if losses else None


def _find_missing_end(folder: Path) -> RunEnd | None:
    try:
        entries = [entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)]
        if not entries or entries[0]["kind"] != "start" or any(entry["kind"] == "end" for entry in entries):
            return None
        checkpoint, _ = choose_checkpoint(folder / "checkpoints", "last")
        counters = read_counters(checkpoint)
        test_loss = _find_test_loss(entries)
        if counters["step"] != entries[0]["total_steps"] or (_scores_test(entries[0]) and test_loss is None):
            return None
        seconds = read_record_position(checkpoint)["seconds"]
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
        test_loss=test_loss,
        artifacts=list_description_files(folder),
    )
