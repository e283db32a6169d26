"""Processes that tests kill: start, watch and find them, and count what the kills leave behind."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import ROOT, drop_announcements
from tests.tracking.stores import new_store

MARKER = "KILLS_TEST"  # environment variable that every descendant of a started process inherits
POLL_SECONDS = 0.0005  # a checkpoint takes a few milliseconds
WORKER_SECONDS = 5  # after the death of a sweep, until its workers have ended
UPLOAD_SECONDS = 60  # after the death of a run, until its uploader has ended
SIGNAL_SECONDS = 90  # until a signaled process has ended; it may wait a minute for the upload to MLflow
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOPPING = "stopping "  # begins what a run or a sweep says to the first signal
COLUMNS = ("lost", "duplicated", "different", "leftover files", "leftover processes", "other")


@dataclass
class KillCase:
    """A command that is killed and repeated: its folder, the text that it trains on, and the process that runs now."""

    folder: Path
    text: Path
    process: subprocess.Popen[bytes] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        self.folder.mkdir()
        new_store(self.folder)

    @property
    def marker(self) -> str:
        return str(self.folder)


@dataclass
class Tally:
    """Count the kills of one kind, the moments they hit, and the problems found afterwards."""

    what: str
    moments: Counter[str] = field(default_factory=Counter)
    problems: dict[str, list[str]] = field(default_factory=lambda: {column: [] for column in COLUMNS})
    n_equal: int = 0
    n_compared: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    started_at: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def n_kills(self) -> int:
        return sum(self.moments.values())

    def add_problem(self, column: str, text: str) -> None:
        self.problems[column].append(text)
        print(f"{self.what}: {column}: {text}", flush=True)

    def stop_clock(self) -> None:
        self.seconds = time.monotonic() - self.started_at

    def list_problems(self) -> list[str]:
        return [f"{column}: {text}" for column, texts in self.problems.items() for text in texts]

    def format_row(self) -> str:
        moments = ", ".join(f"{moment} {count}" for moment, count in self.moments.most_common())
        notes = ", ".join(f"{note} {count}" for note, count in self.notes.items())
        counts = [str(len(self.problems[column])) for column in COLUMNS]
        cells = [self.what, str(self.n_kills), moments, f"{self.n_equal} of {self.n_compared}", *counts, notes]
        return f"| {' | '.join(cells)} | {self.seconds or time.monotonic() - self.started_at:.0f} |"


def write_table(path: Path, tallies: Sequence[Tally]) -> None:
    """Write the tallies as a Markdown table, and below it every problem."""
    titles = ["what", "n", "moments hit", "resumed equal", *COLUMNS, "notes", "seconds"]
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *(tally.format_row() for tally in tallies)]
    problems = [f"- {tally.what}: {problem}" for tally in tallies for problem in tally.list_problems()]
    path.write_text("\n".join([*lines, "", *problems]) + "\n")


def start_marked(arguments: Sequence[str], log: Path, marker: str) -> subprocess.Popen[bytes]:
    """Start `python run.py ARGUMENTS` in its own process group; the log receives stdout, LOG.err stderr."""
    with log.open("ab") as output, Path(f"{log}.err").open("ab") as errors:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "run.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            env={**os.environ, MARKER: marker, "OMP_NUM_THREADS": "1"},
            preexec_fn=reset_signals,
            process_group=0,
        )


def reset_signals() -> None:
    """Undo that this process may ignore signals, as nohup and `&` in a script make it do."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


def kill_process(process: subprocess.Popen[bytes]) -> bool:
    """Kill -9 a process and wait for it; return whether it was still running."""
    process.kill()
    return process.wait() == -signal.SIGKILL


def wait_for_first_line(process: subprocess.Popen[bytes]) -> None:
    """Wait until a process imports torch: while Python itself starts, nobody can handle a signal."""
    maps = Path(f"/proc/{process.pid}/maps")
    poll_until(lambda: process.poll() is not None or b"/torch/" in read_bytes(maps), 60, 0.01)


def interrupt_process(process: subprocess.Popen[bytes], number: int, is_double: bool, pause: float) -> None:
    """Send a signal to the process group, as a terminal does, twice if `is_double`, and wait for the end."""
    os.killpg(process.pid, number)
    if is_double and not poll_until(lambda: process.poll() is not None, pause):
        os.killpg(process.pid, number)
    process.wait(SIGNAL_SECONDS)


def check_interruption(process: subprocess.Popen[bytes], number: int, errors: Path, place: str, tally: Tally) -> bool:
    """Check that a signaled process ended with its status and one message; return False if it had completed before."""
    text = errors.read_text(errors="replace")
    messages = [line for line in drop_announcements(text).splitlines() if line and not line.startswith(STOPPING)]
    if process.returncode == 0 and not messages:
        tally.notes["completed all the same"] += 1
        return False
    if process.returncode != 128 + number or len(messages) != 1 or not messages[0].startswith("interrupted"):
        tally.add_problem("other", f"{place}: exit status {process.returncode}: {text[-500:]!r}")
    return True


def find_marked(marker: str) -> dict[int, str]:
    """Return the command lines of the living processes that a marked process has started, by pid."""
    found = {}
    wanted = f"{MARKER}={marker}".encode()
    for place in Path("/proc").iterdir():
        if place.name.isdecimal() and wanted in read_bytes(place / "environ").split(b"\0"):
            command = read_bytes(place / "cmdline").replace(b"\0", b" ").decode(errors="replace")
            found[int(place.name)] = command.strip()
    return found


def read_bytes(path: Path) -> bytes:
    """Return the content of a file, nothing if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


def is_alive(pid: int) -> bool:
    return read_bytes(Path(f"/proc/{pid}/stat")).rpartition(b")")[2].split()[:1] not in ([], [b"Z"])


def maps_files_below(pid: int, folder: Path) -> bool:
    """Return whether a process has mapped a file below `folder` into its memory."""
    return f" {folder}/".encode() in read_bytes(Path(f"/proc/{pid}/maps"))


def poll_until(condition: Callable[[], bool], seconds: float, interval: float = POLL_SECONDS) -> bool:
    """Wait until the condition holds; return whether it did in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def wait_for_marked_end(marker: str, seconds: float, tally: Tally) -> None:
    """Wait until no marked process is left; those that stay are problems, and are killed."""
    if poll_until(lambda: not find_marked(marker), seconds, 0.1):
        return
    for pid, command in find_marked(marker).items():
        tally.add_problem("leftover processes", f"{command} after {seconds:.0f} s")
        os.kill(pid, signal.SIGKILL)


def list_temporary_files(*folders: Path) -> list[Path]:
    """Return drafts, backups and parts of files that an atomic write leaves if it is killed."""
    suffixes = (".tmp", ".old", ".partial", ".removed")
    return sorted(path for folder in folders for path in folder.rglob("*") if path.suffix in suffixes)
