"""The files of a run's folder that are uploaded to MLflow."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness.record.metrics_file import find_record
from harness.record.trial_record import OUTPUT_LOG, is_foreign

MAX_LOG_BYTES = 2_000_000
"""Longer output of a program is shortened to this."""


def list_artifacts(folder: Path, start: Mapping[str, Any], end: Mapping[str, Any] | None) -> list[Path]:
    """Return the files that the end entry lists, or those that describe the run if it died, the figures and the record.

    Of a trial that another program ran, all else is the program's own.
    """
    if end:
        files = [folder / name for name in end["artifacts"]]
    elif is_foreign(start):
        files = [folder / OUTPUT_LOG]
    else:
        files = [path for path in sorted(folder.iterdir()) if path.suffix in (".yaml", ".txt", ".patch")]
    return [*files, *sorted((folder / "figures").glob("*.png")), find_record(folder)]


def shorten_log(path: Path, max_bytes: int) -> str:
    """Return the first tenth of `max_bytes` and the end of a log, and between them how much was left out."""
    size, head = path.stat().st_size, max_bytes // 10
    with path.open("rb") as file:
        first = file.read(head)
        file.seek(size - (max_bytes - head))
        last = file.read()
    parts = [part.decode(errors="replace") for part in (first, last)]
    gap = f"… {size - max_bytes:,} bytes left out; {path.name} in the folder of the trial has all …"
    return f"\n\n{gap}\n\n".join(parts)


def is_own_file(path: Path, folder: Path, on_message: Callable[[str], None]) -> bool:
    """Return whether `path` is a file in `folder` and no link, so that it may be uploaded; else say that it is not.

    A folder may be somebody else's, whose record or links name private files of the user.
    """
    has_it = path.is_file() and path.is_relative_to(folder)
    if has_it and path.resolve() == folder.resolve() / path.relative_to(folder):
        return True
    on_message(f"{path}: not uploaded, because it is a link or no file of {folder}")
    return False
