"""Measure what a trial costs beyond its program, for a Hydra app: python -m benchmarks.sweep_overhead

Sweeps an app that returns at once, with hydra-optuna-sweeper and with ours, and prints the seconds from one call of its
task function to the next one, of time and of CPU: those of Hydra itself, and those of the sweeper. The sweepers take
turns, since other processes disturb them.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition(":")[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in OPTIONS}
    for _ in range(arguments.rounds):
        for sweeper in OPTIONS:
            with tempfile.TemporaryDirectory() as folder:
                elapsed, used = time_trials(sweeper, arguments.trials, Path(folder))
            seconds[sweeper] += elapsed
            cpu_seconds[sweeper] += used
    for sweeper in OPTIONS:
        medians = statistics.median(seconds[sweeper]), statistics.median(cpu_seconds[sweeper])
        print(f"{sweeper:8} {medians[0]:.3f} s a trial, {medians[1]:.3f} s of CPU")


if __name__ == "__main__":
    main()
