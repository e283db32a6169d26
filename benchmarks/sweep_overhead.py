"""Measure what a trial costs beyond its program: python -m benchmarks.sweep_overhead

Sweeps a Hydra app that returns at once, with hydra-optuna-sweeper and with ours, and prints the seconds from one call
of its task function to the next one, of time and of CPU: those of Hydra itself, and those of the sweeper. Then it
sweeps a shell script with `plateau sweep`, and prints the seconds from one start of it to the next one, and those that
the script takes alone. The sweepers take turns, since other processes disturb them.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
APP = """
import json, time
import hydra

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    with open(cfg.log, "a") as log:
        print(json.dumps([time.monotonic(), time.process_time()]), file=log)
    return cfg.x ** 2

if __name__ == "__main__":
    main()
"""
SETTINGS = "x: 1\nlog: ???\n"
SCRIPT = "date +%s.%N >> {log}\necho val_loss: $1\n"
OPTIONS = {"optuna": ["hydra.sweeper.n_jobs=1"], "harness": ["hydra.sweeper.mlflow=false"]}


def time_trials(sweeper: str, n_trials: int, folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds and the CPU seconds of each trial but the first, from call to call of the task function."""
    (folder / "app.py").write_text(APP)
    (folder / "settings.yaml").write_text(SETTINGS)
    log = folder / "calls.jsonl"
    arguments = [
        "-m", f"hydra/sweeper={sweeper}", "hydra/sweeper/sampler=random", "x=interval(-5,5)", f"log={log}",
        f"hydra.sweeper.n_trials={n_trials}", *OPTIONS[sweeper],
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "app.py", *arguments], cwd=folder, env=environment, check=True, capture_output=True)
    calls = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(calls) == n_trials
    pairs = list(itertools.pairwise(calls))
    return [after[0] - before[0] for before, after in pairs], [after[1] - before[1] for before, after in pairs]


def time_commands(n_trials: int, folder: Path) -> tuple[list[float], list[float]]:
    """Return the seconds from start to start of a swept script, and those that it takes alone."""
    script, log = folder / "train.sh", folder / "starts.txt"
    script.write_text(SCRIPT.format(log=log))
    options = ["--n-trials", str(n_trials), "--sampler", "random", "--no-baseline", "--no-mlflow"]
    command = ["-m", "harness", "sweep", *options, "--", "sh", str(script), "interval(0,1)"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *command], cwd=folder, env=environment, check=True, capture_output=True)
    starts = list(map(float, log.read_text().split()))
    assert len(starts) == n_trials
    alone = []
    for _ in starts:
        started = time.monotonic()
        subprocess.run(["sh", str(script), "0.5"], check=True, capture_output=True)
        alone.append(time.monotonic() - started)
    return [after - before for before, after in itertools.pairwise(starts)], alone


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    command_seconds: list[float] = []
    alone_seconds: list[float] = []
    for _ in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            elapsed, alone = time_commands(arguments.trials, Path(folder))
        command_seconds += elapsed
        alone_seconds += alone
        for sweeper in OPTIONS:
            with tempfile.TemporaryDirectory() as folder:
                elapsed, used = time_trials(sweeper, arguments.trials, Path(folder))
            seconds[sweeper] += elapsed
            cpu_seconds[sweeper] += used
    for sweeper in OPTIONS:
        medians = statistics.median(seconds[sweeper]), statistics.median(cpu_seconds[sweeper])
        print(f"{sweeper:8} {medians[0]:.3f} s a trial, {medians[1]:.3f} s of CPU")
    medians = statistics.median(command_seconds), statistics.median(alone_seconds)
    print(f"command  {medians[0]:.3f} s a trial; the script alone {medians[1]:.3f} s")


if __name__ == "__main__":
    main()
