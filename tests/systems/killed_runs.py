"""Runs for the kill tests: each is started, killed, resumed and killed again until it completes.

Each case has its own folders and an empty cache, so all must end with the losses of one reference run.
"""

import random
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.checkpoint_names import list_saved_steps
from harness.core.digests import MANIFEST
from harness.record.metrics_file import METRICS_FILE
from harness.tracking.upload_cursor import UploadCursor
from tests.systems.kill_tools import KillCase, maps_files_below, poll_until, read_bytes, start_marked

TOTAL_STEPS, EVALS = 400, 4
SMALL_RUN = [
    "experiment=smoke", "device=cpu", "device.threads=1", "model.layers=1", "model.width=16", "model.dropout=0.1",
    "batch.batch_size=4", "data=text", r"data.source.split_on='\n\n'", "data.val_fraction=0.06",
    "data.sequence_length=32", "tokenizer=bpe", "tokenizer.vocab_size=400", f"loop.max_steps={TOTAL_STEPS}",
    f"loop.evals={EVALS}", "loop.save_every=10",
]  # fmt: skip
START_SECONDS = 120  # until a run has reached any moment, on a busy machine


def write_text(path: Path, n_documents: int = 800) -> None:
    """Write documents of random words, enough that a tokenizer and the token streams take a moment."""
    chance = random.Random(0)
    words = ["".join(chance.choices("abcdefghijklmnopqrstuvwxyz", k=chance.randint(2, 9))) for _ in range(3000)]
    path.write_text("\n\n".join(" ".join(chance.choices(words, k=120)) for _ in range(n_documents)))


@dataclass
class RunCase(KillCase):
    """A run that is killed; `folders_before` are the run folders that its last process found."""

    folders_before: set[Path] = field(default_factory=set)
    statuses: list[int] = field(default_factory=list)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.folder}/mlflow.db"

    @property
    def log(self) -> Path:
        return self.folder / f"log-{len(self.statuses)}.txt"

    def list_runs(self) -> list[Path]:
        """Return the run folders, oldest first."""
        runs = (self.folder / "outputs").glob("*")
        return sorted(runs, key=lambda run: (run / "command.txt").stat().st_mtime_ns if any(run.iterdir()) else 0)

    def find_resumable(self) -> Path | None:
        """Return the newest run with a checkpoint."""
        runs = [run for run in self.list_runs() if list_saved_steps(run / "checkpoints")]
        return runs[-1] if runs else None

    def start_process(self) -> subprocess.Popen[bytes]:
        """Start the run as a user would: resume the newest run with a checkpoint, or run the same command."""
        resumed = self.find_resumable()
        self.folders_before = set(self.list_runs())
        places = [f"output_dir={self.folder}/outputs", f"cache_dir={self.cache}", f"tracking.uri={self.uri}"]
        start = ["start=resume", f"start.run={resumed}"] if resumed else []
        command = [*SMALL_RUN, *places, f"data.source.path={self.text}", *start]
        self.process = start_marked(command, self.log, self.marker)
        return self.process

    def end_process(self) -> int:
        """Wait for the process and return its exit status."""
        assert self.process is not None
        status = self.process.wait(START_SECONDS)
        self.statuses.append(status)
        return status

    def find_current(self) -> Path | None:
        """Return the run folder that the process has created."""
        created = set((self.folder / "outputs").glob("*")) - self.folders_before
        return created.pop() if created else None


@dataclass(frozen=True)
class Progress:
    """Record of a run so far: complete rows, the last step of any row and what kind of line came last."""

    step: int
    is_evaluated: bool  # at this step
    has_ended: bool
    n_lines: int


def read_progress(run: Path | None) -> Progress:
    data = read_bytes(run / METRICS_FILE) if run else b""
    lines = data[: data.rfind(b"\n") + 1].splitlines()
    if not lines:
        return Progress(0, False, False, 0)
    [first_step] = map(int, re.findall(rb'"first_step": (\d+)', lines[0]))
    steps = [int(found) for found in re.findall(rb'"step": (\d+), "tokens"', data)]
    step = steps[-1] if steps and steps[-1] else first_step
    rows = [line for line in lines if b'"step": %d, "tokens"' % step in line]
    is_evaluated = step == first_step > 0 or any(b'"val/loss"' in line for line in rows)  # a resumed run already is
    return Progress(step, is_evaluated, b'"kind": "end"' in lines[-1], len(lines))


def has_draft(run: Path | None) -> bool:
    """Return whether a checkpoint is being written."""
    return bool(run) and any((run / "checkpoints").glob("*.tmp"))


def find_recorded_moment(run: Path, total_steps: int) -> str:
    """Return which part of training a run is in, from its record and its checkpoints."""
    progress = read_progress(run)
    if has_draft(run):
        return "checkpoint"
    if progress.step == total_steps:
        return "last step"
    if progress.n_lines and not progress.is_evaluated and progress.step % (total_steps // EVALS) == 0:
        return "evaluation"
    return "first step" if progress.step == 0 else "steps"


def find_moment(case: RunCase, *, has_mapped_data: bool) -> str:
    """Return what the run is doing, as seen from outside."""
    run = case.find_current()
    if run is None or not (run / METRICS_FILE).exists():
        locks, complete = list(case.cache.glob("*/*.lock")), list(case.cache.glob(f"data/*/{MANIFEST}"))
        if run is not None or has_mapped_data:
            return "build"
        return "data preparation" if locks and not complete else "imports"
    if read_progress(run).has_ended:
        return "exit" if UploadCursor.load(run).is_complete else "upload to MLflow"
    return find_recorded_moment(run, TOTAL_STEPS)


Target = tuple[Callable[[], bool], float]  # when the moment has come, and the longest delay after that in seconds


def list_targets(case: RunCase, chance: random.Random) -> dict[str, Target]:
    """Return the moments to aim at; a step, checkpoint or evaluation is one after a random step."""
    first = max((step for run in case.list_runs() for step in list_saved_steps(run / "checkpoints")), default=0)
    step = chance.randint(first, max(first, TOTAL_STEPS - 30))
    pid = case.process.pid if case.process else 0

    def progress() -> Progress:
        return read_progress(case.find_current())

    def is_evaluating() -> bool:
        run = case.find_current()
        return progress().step >= step and run is not None and find_recorded_moment(run, TOTAL_STEPS) == "evaluation"

    def is_complete() -> bool:
        run = case.find_current()
        return run is not None and UploadCursor.load(run).is_complete

    return {
        "imports": (lambda: True, 3.5),
        "data preparation": (lambda: any(case.cache.glob("*/*.lock")), 0.8),
        "build": (lambda: maps_files_below(pid, case.cache), 0.3),
        "first step": (lambda: progress().n_lines > 0, 0.05),
        "steps": (lambda: progress().step >= step, 0.1),
        "checkpoint": (lambda: progress().step >= step and has_draft(case.find_current()), 0.0),
        "evaluation": (is_evaluating, 0.03),
        "last step": (lambda: progress().step == TOTAL_STEPS, 0.05),
        "upload to MLflow": (lambda: progress().has_ended, 3.0),
        "exit": (is_complete, 0.1),
    }


def plan_moments(chance: random.Random) -> Iterator[list[str]]:
    """Yield the moments to aim at in each case: an early one, three in training, a late one."""
    early = ["imports", "data preparation"]
    middle = ["build", "first step", "steps", "checkpoint", "evaluation", "checkpoint", "steps"]
    late = ["last step", "upload to MLflow", "exit"]
    while True:
        yield [chance.choice(early), *chance.sample(middle, 3), chance.choice(late)]


def wait_for_moment(case: RunCase, target: str, chance: random.Random) -> bool:
    """Wait until the run is at the moment aimed at and for a random time; return whether the process still runs."""
    process = case.process
    assert process is not None
    reached, delay = list_targets(case, chance)[target]
    poll_until(lambda: process.poll() is not None or reached(), START_SECONDS)
    if delay:
        poll_until(lambda: process.poll() is not None, chance.uniform(0, delay))
    return process.poll() is None
