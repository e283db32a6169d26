"""Measure what a sweep finds and costs, against hydra-optuna-sweeper and random search.

Three parts: the loss found per token, the time lost in the other sweeper's barrier, and the time beyond training. All
run by default; the results are written to --out as JSON. benchmarks/pruners.py compares the pruners.

    python benchmarks/sweep.py
    python benchmarks/sweep.py search --seeds 5 --trials 24
    python benchmarks/sweep.py barrier --rounds 2
    python benchmarks/sweep.py overhead --trials 500
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil

from harness.record import metrics_file
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import RESULT

ROOT = Path(__file__).resolve().parents[1]
N_PARALLEL = 2  # sweeps at a time, each with one thread

SMALL = ["data.val_fraction=0.01", "batch.batch_size=8", "loop.evals=5", "observers=metrics_only", "device.threads=1"]
"""The default experiment with less data: the same base model, LoRA and questions."""

TINY = [
    "start=scratch", "device=cpu", "device.threads=1", "model.layers=1", "model.width=16", "model.heads=2",
    "tokenizer.vocab_size=512", "data.sequence_length=32", "data.val_fraction=0.005", "batch.batch_size=4",
    "loop.max_steps=4", "loop.evals=2",
]  # fmt: skip

STOCK = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1"]
ARMS = {
    "ours": ["sweep.n_jobs=1"],
    "stock": STOCK,
    "random": ["sweep.n_jobs=1", "hydra/sweeper/sampler=random", "pruner=none", "sweep.baseline=false"],
}
TARGET_SHARE = 0.4
"""Aim: reach the other sweeper's best loss with this share of its tokens."""


@dataclass(frozen=True)
class RecordedTrial:
    """A trial read from its metrics.jsonl; times are in seconds, evaluations are (tokens, seconds, best loss)."""

    started_at: float
    ended_at: float
    status: str
    tokens: int
    seconds: float
    evaluations: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class TrajectoryPoint:
    """Cost of a sweep up to an evaluation, and the best loss so far."""

    tokens: int
    seconds: float
    best_loss: float


def run_sweep_command(folder: Path, *overrides: str) -> float:
    """Run `python run.py -m` and return its duration in seconds; the trials are in `folder`/sweeps/sweep."""
    folder.mkdir(parents=True)
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
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def read_trials(sweep: Path) -> list[RecordedTrial]:
    """Return the trials in the folder of a sweep in the order in which they ran."""
    runs = [read_trial(path) for path in sweep.glob(f"*/{metrics_file.METRICS_FILE}")]
    return sorted(runs, key=lambda run: run.started_at)


def read_trial(path: Path) -> RecordedTrial:
    start, *middle, end = [entry for entry, _ in metrics_file.read_entries(path)]
    evaluations = [
        (entry["tokens"], (entry["at_ms"] - start["at_ms"]) / 1000, entry["metrics"]["val/best_loss"])
        for entry in middle
        if "val/best_loss" in entry.get("metrics", {})
    ]
    instants = start["at_ms"] / 1000, end["at_ms"] / 1000
    return RecordedTrial(*instants, end["status"], end["tokens"], end["seconds"], tuple(evaluations))


def build_trajectory(runs: Iterable[RecordedTrial]) -> list[TrajectoryPoint]:
    """Return a point per evaluation and per trial. Only completed trials count as found; the cost of all counts."""
    points, tokens, seconds, best = [], 0, 0.0, math.inf
    for run in runs:
        for spent, elapsed, loss in run.evaluations if run.status == "completed" else ():
            best = min(best, loss)
            points.append(TrajectoryPoint(tokens + spent, seconds + elapsed, best))
        tokens, seconds = tokens + run.tokens, seconds + run.seconds
        points.append(TrajectoryPoint(tokens, seconds, best))
    return points


def first_reaching(points: Iterable[TrajectoryPoint], loss: float) -> TrajectoryPoint:
    """Return the first point with at most this loss; its cost is infinite if there is none."""
    return next((point for point in points if point.best_loss <= loss), TrajectoryPoint(math.inf, math.inf, math.inf))


def best_loss_within(points: Iterable[TrajectoryPoint], tokens: int) -> float:
    return min((point.best_loss for point in points if point.tokens <= tokens), default=math.inf)


def bench_search(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run every arm with every seed, two sweeps at a time."""
    small = [*SMALL, f"loop.max_steps={chosen.steps}"]
    subprocess.run(  # trains the base model and caches the tokens
        [sys.executable, "run.py", *small, "loop.max_steps=1", "loop.evals=1", f"output_dir={folder}/first"],
        cwd=ROOT, env=single_thread_env(), check=True, capture_output=True,
    )  # fmt: skip

    def one(seed: int, arm: str) -> tuple[float, list[TrajectoryPoint]]:
        here = folder / f"{arm}-{seed}"
        count = f"{'hydra.sweeper' if arm == 'stock' else 'sweep'}.n_trials={chosen.trials or 24}"
        whole = run_sweep_command(here, *small, *ARMS[arm], count, f"seed={seed}", f"hydra.sweeper.sampler.seed={seed}")
        return whole, build_trajectory(read_trials(here / "sweeps" / "sweep"))

    seeds = range(1, chosen.seeds + 1)
    jobs = [(seed, arm) for seed in seeds for arm in ARMS]
    with ThreadPoolExecutor(N_PARALLEL) as pool:
        done = dict(zip(jobs, pool.map(lambda job: one(*job), jobs), strict=True))
    rows = []
    for seed in seeds:
        points = {arm: done[seed, arm][1] for arm in ARMS}
        of_arm = compare_arms(points, chosen.loss)
        rows += [{"seed": seed, "arm": arm, "command_seconds": done[seed, arm][0], **of_arm[arm]} for arm in ARMS]
    print_search(rows, chosen)
    points = {f"{arm}-{seed}": [asdict(point) for point in found] for (seed, arm), (_, found) in done.items()}
    return {"rows": rows, "points": points}


def compare_arms(points: Mapping[str, Sequence[TrajectoryPoint]], loss: float) -> dict[str, dict[str, float]]:
    """Return the measures of each arm for one seed.

    `share_of_total` and `share_until_best` are the tokens to the other sweeper's best loss, as shares of all its tokens
    and of those it took to its best.
    """
    stock = points["stock"]
    reached = first_reaching(stock, stock[-1].best_loss)
    least = min(found[-1].tokens for found in points.values())
    measures = {}
    for arm, found in points.items():
        to_stock, to_loss = first_reaching(found, reached.best_loss), first_reaching(found, loss)
        measures[arm] = {
            **asdict(found[-1]),
            "best_at_equal_tokens": best_loss_within(found, least),
            "tokens_to_stock": to_stock.tokens,
            "seconds_to_stock": to_stock.seconds,
            "tokens_to_loss": to_loss.tokens,
            "seconds_to_loss": to_loss.seconds,
            "share_of_total": to_stock.tokens / stock[-1].tokens,
            "share_until_best": to_stock.tokens / reached.tokens if reached.tokens else math.nan,
        }
    return measures


def print_search(rows: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    print(f"\n{chosen.seeds} seeds, {chosen.trials or 24} trials of {chosen.steps} steps each, two sweeps at a time; "
          "only ours begins with the current config as trial 0; median (range)")  # fmt: skip
    columns = {
        "best loss": ("best_loss", 4), "at equal tokens": ("best_at_equal_tokens", 4), "tokens": ("tokens", 0),
        "seconds of training": ("seconds", 1), "of the command": ("command_seconds", 1),
    }  # fmt: skip
    print_groups(rows, "arm", columns)
    print(f"\nCost to reach the other sweeper's best with the same seed, and to reach {chosen.loss}")
    print_groups(rows, "arm", {
        "tokens to its best": ("tokens_to_stock", 0), "seconds of training": ("seconds_to_stock", 1),
        f"tokens to {chosen.loss}": ("tokens_to_loss", 0), "seconds of training ": ("seconds_to_loss", 1),
        "share of all its tokens": ("share_of_total", 2), "share of its tokens to its best": ("share_until_best", 2),
    })  # fmt: skip
    print("\nBest loss, and tokens to the other sweeper's best as a share of its total, by seed")
    lines: dict[int, list[str]] = {}
    for row in rows:
        lines.setdefault(row["seed"], []).append(f"{row['best_loss']:.4f}, {format_number(row['of_all'], 2)}")
    print_table(["seed", *ARMS], [[str(seed), *cells] for seed, cells in lines.items()])
    share = statistics.median(row["share_of_total"] for row in rows if row["arm"] == "ours")
    verdict = "met" if share <= TARGET_SHARE else "not met"
    print(
        f"aim: the other sweeper's best in at most {TARGET_SHARE} of its tokens: {format_number(share, 2)}, {verdict}"
    )


def bench_barrier(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Run a grid of long and short trials with two of our workers, and with the other sweeper in batches of two."""
    lengths = [chosen.steps // 2, chosen.steps * 3 // 2, chosen.steps * 3, chosen.steps * 5]
    grid = [*SMALL, "sweeps=grid", "seed=1,2,3,4", f"loop.max_steps={','.join(map(str, lengths))}",
            "sweep.allow=[loop.max_steps]"]  # fmt: skip
    arms = {
        "ours": ["sweep.n_jobs=2"],
        "stock": ["hydra/sweeper=optuna", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweeper.n_jobs=2",
                  f"hydra.sweeper.n_trials={4 * len(lengths)}"],
    }  # fmt: skip
    rows = []
    for number in range(1, chosen.rounds + 1):
        for arm in arms if number % 2 else reversed(arms):
            here = folder / f"{arm}-{number}"
            whole = run_sweep_command(here, *grid, *arms[arm], f"hydra.sweeper.sampler.seed={number}")
            runs = read_trials(here / "sweeps" / "sweep")
            trials = max(run.ended_at for run in runs) - min(run.started_at for run in runs)
            training = sum(run.seconds for run in runs)
            rows.append({"sweeper": arm, "round": number, "trials": len(runs), "command_seconds": whole,
                         "trials_seconds": trials, "busy": training / 2 / trials})  # fmt: skip
    print(f"\n{4 * len(lengths)} trials of {', '.join(map(str, lengths))} steps, two at a time, in {chosen.rounds} "
          "rounds; seconds, median (range); busy is the share of both workers' time that was training")  # fmt: skip
    print_groups(rows, "sweeper", {
        "whole command": ("command_seconds", 1), "first trial's start to last one's end": ("trials_seconds", 1),
        "busy": ("busy", 2),
    })  # fmt: skip
    for key in ("command_seconds", "trials_seconds"):
        times = {(row["sweeper"], row["round"]): row[key] for row in rows}
        ratios = [times["ours", number] / times["stock", number] for number in range(1, chosen.rounds + 1)]
        print(f"{key.replace('_', ' ')}, ours as a share of the other's: {format_spread(ratios, 2)}")
    return {"rows": rows}


def bench_overhead(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the time between consecutive trials that is not training, in a long sweep of tiny trials."""
    rows = {}
    for sampler in ("random", "tpe"):
        here = folder / sampler
        count = f"sweep.n_trials={chosen.trials or 500}"
        cpu, ended_at = measure_cpu_seconds(
            here, *TINY, f"hydra/sweeper/sampler={sampler}", "pruner=none", count, "sweep.n_jobs=1", "sweep.keep=1"
        )
        trials = load_sweep_study(here / "sweeps" / "sweep").trials
        ends = [trial.datetime_complete.timestamp() for trial in trials]
        training = [trial.user_attrs[RESULT]["seconds"] for trial in trials]
        beyond = (np.diff(ends) - training[1:]).tolist()
        rows[sampler] = {"beyond": beyond, "training": training, "cpu": cpu, "after_last": ended_at - ends[-1]}
    n = len(beyond) + 1
    windows = {f"{a} to {b}": slice(a - 1, b) for a, b in trial_windows(n)}
    print(f"\n{n} trials in one warm worker, MLflow included; seconds beyond training, median of the trials (range)")
    print_table(
        ["sampler", *windows, "training"],
        [
            [
                arm,
                *(format_spread(row["beyond"][window], 3) for window in windows.values()),
                format_spread(row["training"], 3),
            ]
            for arm, row in rows.items()
        ],
    )
    print("\nCPU seconds a trial, by process, start and end of the sweep included")
    roles = ["coordinator", "worker", "uploader"]
    print_table(
        ["sampler", *roles, "seconds from the last trial to the command's end"],
        [
            [arm, *(f"{row['cpu'].get(role, 0.0) / n:.3f}" for role in roles), f"{row['after_last']:.1f}"]
            for arm, row in rows.items()
        ],
    )
    return rows


def trial_windows(n: int) -> list[tuple[int, int]]:
    """Return the first, middle and last tenth of the trials after the first, by number."""
    tenth = max(1, n // 10)
    return [(1, tenth), ((n - tenth) // 2, (n + tenth) // 2), (n - tenth, n - 1)]


def measure_cpu_seconds(folder: Path, *overrides: str) -> tuple[dict[str, float], float]:
    """Run a sweep; return the CPU seconds of its processes by role and the time at which it ended."""
    folder.mkdir(parents=True)
    seen: dict[tuple[str, int], float] = {}
    with (folder / "log.txt").open("w") as log:
        sweep = psutil.Popen(
            build_command(folder, *overrides), cwd=ROOT, env=single_thread_env(), stdout=log, stderr=log
        )
        while sweep.poll() is None:
            with suppress(psutil.Error):
                for process in (sweep, *sweep.children(recursive=True)):
                    times = process.cpu_times()
                    seen[process_role(process, sweep), process.pid] = times.user + times.system
            time.sleep(0.5)
    ended_at = time.time()
    if sweep.returncode:
        raise subprocess.CalledProcessError(sweep.returncode, "run.py -m", (folder / "log.txt").read_text())
    return {name: sum(cpu for (one, _), cpu in seen.items() if one == name) for name, _ in seen}, ended_at


def process_role(process: psutil.Process, sweep: psutil.Process) -> str:
    if process.pid == sweep.pid:
        return "coordinator"
    command = " ".join(process.cmdline())
    return "worker" if "programs.worker" in command else "uploader" if "upload_process" in command else "other"


def load_sweep_study(sweep: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=open_storage(None, sweep))


def format_number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "never"


def format_spread(values: Sequence[float], digits: int) -> str:
    """Return the median and the range."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{format_number(median, digits)} ({format_number(low, digits)} to {format_number(high, digits)})"


def print_groups(rows: Sequence[Mapping[str, Any]], by: str, columns: Mapping[str, tuple[str, int]]) -> None:
    """Print a row for each value of `by` with median and range of each column, given as (key, digits)."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row[by], []).append(row)
    print_table(
        [by, *columns],
        [[name, *(format_spread([row[key] for row in found], n) for key, n in columns.values())] for name, found in
         sorted(groups.items())],
    )  # fmt: skip


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    for cells in (header, ["---"] * len(header), *rows):
        print(f"| {' | '.join(cells)} |")


BENCHMARKS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "search": bench_search, "barrier": bench_barrier, "overhead": bench_overhead,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("part", nargs="?", choices=BENCHMARKS, help="default: all, one after the other")
    parser.add_argument("--out", type=Path, help="output folder (default: a temporary one)")
    parser.add_argument("--seeds", type=int, default=5, help="seeds of search")
    parser.add_argument("--trials", type=int, help="trials per sweep (default: 24 in search, 500 in overhead)")
    parser.add_argument(
        "--steps", type=int, default=40, help="steps of a trial in search, about a third of one in barrier"
    )
    parser.add_argument("--loss", type=float, default=5.115, help="loss to reach in search; the default suits 40 steps")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of barrier")
    chosen = parser.parse_args()
    silence_optuna()
    out = (chosen.out or Path(tempfile.mkdtemp(prefix="sweep-"))).absolute()
    for part in [chosen.part] if chosen.part else BENCHMARKS:
        folder = out / part
        if folder.exists():
            parser.error(f"--out: {folder} exists; choose another folder")
        folder.mkdir(parents=True)
        measured = BENCHMARKS[part](chosen, folder)
        metrics_file.write_json(
            folder / "measured.json", {"options": {k: str(v) for k, v in vars(chosen).items()}, **measured}
        )
        print(f"\nresults: {folder / 'measured.json'}\n")


if __name__ == "__main__":
    main()
