"""Run `python run.py -m` for a benchmark, and read what its trials found and cost."""

import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from harness.record import metrics_file
from harness.sweep.study.storage import open_storage

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class RecordedTrial:
    """A trial read from its metrics.jsonl.

    `progress` has the tokens of the trial so far at points in time. Times are in seconds since 1970, and `seconds` is
    what the run took, without pauses. `loss` is the best validation loss of a completed trial, else infinite.
    """

    folder: Path
    started_at: float
    ended_at: float
    status: str
    seconds: float
    progress: tuple[tuple[float, int], ...]
    loss: float

    @property
    def tokens(self) -> int:
        return max((tokens for _, tokens in self.progress), default=0)


@dataclass(frozen=True)
class TrajectoryPoint:
    """Cost of a sweep until a trial completed, and the best loss so far. `seconds` are of the clock."""

    tokens: int
    seconds: float
    best_loss: float


def run_sweep_command(folder: Path, *overrides: str) -> float:
    """Run `python run.py -m` and return its duration in seconds; the trials are in `folder`/sweeps/sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    started_at = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            build_command(folder, *overrides), cwd=ROOT, env=single_thread_env(), stdout=log, stderr=log, check=True
        )
    return time.monotonic() - started_at


def build_command(folder: Path, *overrides: str) -> list[str]:
    is_stock = "hydra/sweeper=optuna" in overrides
    name = f"hydra.sweep.dir={folder}/sweeps/sweep" if is_stock else "sweep.study=sweep"
    places = [f"output_dir={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db", name]
    return [sys.executable, "run.py", "-m", *places, *overrides]


def single_thread_env() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def read_trials(sweep: Path) -> list[RecordedTrial]:
    """Return the trials in the folder of a sweep in the order in which they started."""
    trials = [read_trial(path) for path in sweep.glob(f"*/{metrics_file.METRICS_FILE}")]
    return sorted(trials, key=lambda trial: trial.started_at)


def read_trial(path: Path) -> RecordedTrial:
    """Return what the record of a trial says; one that was paused has several beginnings and ends."""
    entries = [entry for entry, _ in metrics_file.read_entries(path)]
    end = next(entry for entry in reversed(entries) if entry["kind"] == "end")
    is_complete = end["status"] == "completed"
    return RecordedTrial(
        folder=path.parent,
        started_at=entries[0]["at_ms"] / 1000,
        ended_at=end["at_ms"] / 1000,
        status=end["status"],
        seconds=end["seconds"],
        progress=tuple((entry["at_ms"] / 1000, int(entry["tokens"])) for entry in entries if "tokens" in entry),
        loss=float(end["best_val_loss"]) if is_complete else math.inf,
    )


def build_trajectory(trials: Sequence[RecordedTrial]) -> list[TrajectoryPoint]:
    """Return a point for each trial that completed, and one for the end, in the order of the clock.

    Only completed trials count as found; the cost of all counts, whichever of them ran in between.
    """
    spent = [(at, number, tokens) for number, trial in enumerate(trials) for at, tokens in trial.progress]
    found = [(trial.ended_at, trial.loss) for trial in trials if trial.status == "completed"]
    first, last = min(trial.started_at for trial in trials), max(trial.ended_at for trial in trials)
    points, best = [], math.inf
    for until, loss in [*sorted(found), (last, math.inf)]:
        best = min(best, loss)
        so_far: dict[int, int] = {}
        for at, number, tokens in spent:
            if at <= until:
                so_far[number] = max(tokens, so_far.get(number, 0))
        points.append(TrajectoryPoint(sum(so_far.values()), until - first, best))
    return points


def first_reaching(points: Iterable[TrajectoryPoint], loss: float) -> TrajectoryPoint:
    """Return the first point with at most this loss; its cost is infinite if there is none."""
    return next((point for point in points if point.best_loss <= loss), TrajectoryPoint(math.inf, math.inf, math.inf))


def load_sweep_study(sweep: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=open_storage(None, sweep))


def format_number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "never"


def format_spread(values: Sequence[float], digits: int) -> str:
    """Return the median and the range."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{format_number(median, digits)} ({format_number(low, digits)} to {format_number(high, digits)})"


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |")
