"""Import of training curves recorded by this harness or by other programs.

A single file is recognized by its content, a folder by its file names. Modules are imported on demand.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.diagnosis.history import History


def read_history(path: Path) -> History:
    """Read the only run at `path`, as `read_histories` does.

    Raises:
        ValueError: If the path holds no known format, or several runs; the message names the path.
    """
    histories = read_histories(path)
    if len(histories) > 1:
        raise ValueError(f"{path}: contains {len(histories)} runs; give one of them")
    return histories[0]


def read_histories(path: Path) -> list[History]:
    """Read the runs in a log file, a run's folder, the output folder of a trainer or a tracker, or a folder of logs.

    Raises:
        ValueError: If the path holds no known format; the message names the path.
    """
    from harness.importers.sources import folders, log_files

    with _paused_collector():
        return folders.read_folder(path) if path.is_dir() else log_files.read_log_file(path)


@contextmanager
def _paused_collector() -> Iterator[None]:
    """Pause the garbage collector, which takes a quarter of the time by going through the rows again and again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
