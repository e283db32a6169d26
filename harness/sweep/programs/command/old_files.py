"""Files that a metric is read from, and that were there before the program of a trial: their values are not its own."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from harness.core.errors import ConfigError
from harness.importers.named_values.value_sources import find_source_path
from harness.sweep.programs.command.metrics import is_mlflow

REMEDY = "write {out} in its path, here and in the command"
END_BYTES = 256  # at the end of a file, by which its content is recognized


class OldFiles:
    """The files of a metric as they are before a program starts.

    Raises:
        ConfigError: If a source is a folder that has files.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        check_folders(sources)
        paths = {source: find_source_path(source) for source in sources if not is_mlflow(source)}
        self._files = {source: _OldFile(path) for source, path in paths.items() if path is not None}

    def describe_remains(self) -> str:
        """Return which file still has what another program wrote, and why, or an empty string."""
        for source, old in self._files.items():
            with suppress(FileNotFoundError):  # it is being replaced
                if find_source_path(source) == old.path and (problem := old.describe_remains()):
                    return f"--read {source}: {problem}"
        return ""


def check_folders(sources: Sequence[str]) -> None:
    """Check that no source is a folder with logs of other runs.

    Raises:
        ConfigError: If one is.
    """
    for source in sources:
        if not is_mlflow(source) and any(path.is_file() for path in Path(source).rglob("*")):
            raise ConfigError(f"--read {source}: has files of other runs; {REMEDY}")


def check_shared_files(sources: Sequence[str], n_jobs: int) -> None:
    """Check that programs that run at the same time do not write the same file.

    Raises:
        ConfigError: If they do.
    """
    for source in sources:
        if n_jobs > 1 and not is_mlflow(source) and "{out}" not in source and "{trial}" not in source:
            raise ConfigError(f"--read {source}: {n_jobs} programs would write it at the same time; {REMEDY}")


class _OldFile:
    """A file that exists, with what its end looks like."""

    def __init__(self, path: Path) -> None:
        self.path, self._state = path, path.stat()
        self._end = self._read_end()

    def describe_remains(self) -> str:
        """Return that the content is still there, or an empty string."""
        new, old = self.path.stat(), self._state
        if (new.st_ino, new.st_size, new.st_mtime_ns) == (old.st_ino, old.st_size, old.st_mtime_ns):
            return "was there before, and the program has not written it; check where it writes"
        if new.st_size > old.st_size and self._end and self._read_end() == self._end:
            return f"was there before, and the program has added to it; {REMEDY}"
        return ""

    def _read_end(self) -> bytes:
        """Return what stands where the file ended at first."""
        size = self._state.st_size
        with self.path.open("rb") as file:
            file.seek(max(0, size - END_BYTES))
            return file.read(min(END_BYTES, size))
