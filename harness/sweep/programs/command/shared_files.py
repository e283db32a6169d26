"""Files of the current folder that one trial writes after another, such as a checkpoint that each of them replaces."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

SHARED_FILES = "shared_files.json"
"""In the folder of a sweep: a note on the files that several trials wrote."""
MAX_ENTRIES = 5_000
MAX_DEPTH = 3
MAX_NAMED_FILES = 3
SKIPPED_FOLDERS = ("outputs", "mlruns", "mlartifacts", "wandb", "__pycache__", "node_modules", "venv")
SKIPPED_PREFIXES = (".", "mlflow.db")
SKIPPED_SUFFIXES = (".log", ".out", ".pyc")  # of what a shell writes, such as nohup.out; a log is rarely read again


class SharedFilesCheck:
    """Compares which files two trials write that a worker runs one after the other.

    `expected` are files that trials are known to share, as the metric is read from them.
    """

    def __init__(self, cwd: Path, expected: Sequence[str]) -> None:
        self._cwd, self._expected = cwd, {str(cwd / name) for name in expected}
        self._earlier: tuple[int, set[str]] | None = None
        self._is_done = False
        self._started_at = 0.0

    def start_trial(self) -> None:
        """Take the files that are written from now on for those of the next trial."""
        self._started_at = time.time()

    def end_trial(self, number: int, folder: Path) -> None:
        """Note in the sweep's `folder` which files the trial that has ended and the one before have both written."""
        if self._is_done:
            return
        written = {path for path in list_written_files(self._cwd, self._started_at) if path not in self._expected}
        if self._earlier is None:
            self._earlier = number, written
            return
        self._is_done = True
        earlier, paths = self._earlier
        if not (shared := sorted(os.path.relpath(path, self._cwd) for path in paths & written)):
            return
        more = f" and {len(shared) - MAX_NAMED_FILES} more files" if len(shared) > MAX_NAMED_FILES else ""
        note = (
            f"trials {earlier} and {number} both wrote {', '.join(shared[:MAX_NAMED_FILES])}{more}; give the program a "
            "folder of its own with {out}"
        )
        with suppress(FileExistsError), (folder / SHARED_FILES).open("x") as file:  # of another worker
            file.write(json.dumps({"note": note}))


def read_shared_files_note(folder: Path) -> str:
    """Return the note on files that several trials of a sweep wrote, or an empty string."""
    with suppress(FileNotFoundError, ValueError):
        return str(json.loads((folder / SHARED_FILES).read_text())["note"])
    return ""


def list_written_files(folder: Path, since: float) -> Iterator[str]:
    """Yield the files in a folder that were written at or after an instant, but not logs, caches and our own files."""
    n_entries = 0
    folders = [(str(folder), 1)]
    while folders:
        path, depth = folders.pop()
        with suppress(OSError), os.scandir(path) as entries:
            for entry in entries:
                n_entries += 1
                if n_entries > MAX_ENTRIES:
                    return
                if entry.name.startswith(SKIPPED_PREFIXES):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if depth < MAX_DEPTH and entry.name not in SKIPPED_FOLDERS:
                        folders.append((entry.path, depth + 1))
                elif not entry.name.endswith(SKIPPED_SUFFIXES) and entry.stat().st_mtime >= since:
                    yield entry.path
