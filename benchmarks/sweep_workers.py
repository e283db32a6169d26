"""Measure how well sweeps use their workers: time lost in the stock sweeper's barrier, time beyond training, and time
that two workers of unequal speed wait for each other while trials pause and continue.

All parts run by default; the results are written to --out as JSON.

    python -m benchmarks.sweep_workers
    python -m benchmarks.sweep_workers barrier --rounds 2
    python -m benchmarks.sweep_workers overhead --trials 500
    python -m benchmarks.sweep_workers speeds
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.sweep_runs import (
    ROOT,
    build_command,
    format_spread,
    load_sweep_study,
    print_table,
    read_trials,
    run_sweep_command,
    single_thread_env,
)
from harness.record import metrics_file
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.trial_attrs import RESULT

SMALL = ["data.val_fraction=0.01", "batch.batch_size=8", "loop.evals=5", "observers=metrics_only", "device.threads=1"]
"""The default experiment with less data: the same base model, LoRA and questions."""

TINY = [
    "start=scratch", "device=cpu", "device.threads=1", "model.layers=1", "model.width=16", "model.heads=2",
    "tokenizer.vocab_size=512", "data.sequence_length=32", "data.val_fraction=0.005", "batch.batch_size=4",
    "loop.max_steps=4", "loop.evals=2",
]  # fmt: skip

PAUSING_APP = """
import json, os, time
from pathlib import Path
import hydra
from hydra.core.hydra_config import HydraConfig
from harness.sweep import report, resume_from

@hydra.main(config_path=".", config_name="settings")
def main(cfg):
    slow, checkpoint = Path(cfg.log + ".slow"), Path(HydraConfig.get().runtime.output_dir, "checkpoint.json")
    try:
        slow.open("x").write(str(os.getpid()))  # the first worker takes twice as long for a step
    except FileExistsError:
        pass
    seconds = cfg.step_seconds * (2 if slow.read_text() == str(os.getpid()) else 1)
    first = 1 + (json.loads(Path(path).read_text()) if (path := resume_from()) else 0)
    for step in range(first, 101):
        started = time.time()
        time.sleep(seconds)
        with open(cfg.log, "a") as log:
            print(json.dumps([os.getpid(), started, time.time()]), file=log)
        loss = (cfg.x - 0.3) ** 2 + 1 / step
        checkpoint.write_text(str(step))
        report(loss, step=step, total_steps=100, checkpoint=checkpoint)
    return loss

if __name__ == "__main__":
    main()
"""
"""An app that waits instead of computing, so that two workers do not share the cores."""


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
        count = f"sweep.n_trials={chosen.trials}"
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


def bench_speeds(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Sweep an app that pauses with two workers, one of which is half as fast, and add up what both were busy for."""
    app = folder / "app.py"
    app.write_text(PAUSING_APP)
    (folder / "settings.yaml").write_text("x: 0.5\nlog: null\nstep_seconds: null\n")
    shares = []
    for number in range(1, chosen.rounds + 1):
        log = folder / f"{number}.jsonl"
        options = ["hydra/sweeper=harness", f"hydra.sweeper.runs={chosen.runs}", "hydra.sweeper.n_jobs=2",
                   f"hydra.sweeper.sampler.seed={number}", f"hydra.sweep.dir={folder / str(number)}",
                   f"hydra.sweeper.mlflow_uri=sqlite:///{folder}/mlflow.db"]  # fmt: skip
        command = [sys.executable, str(app), "-m", f"log={log}", f"step_seconds={chosen.step_seconds}", *options]
        with (folder / f"{number}.txt").open("w") as output:
            subprocess.run(
                [*command, "x=interval(0,1)"], stdout=output, stderr=output, env=single_thread_env(), check=True
            )
        steps = [json.loads(line) for line in log.read_text().splitlines()]
        workers = {worker for worker, _, _ in steps}
        whole = max(end for _, _, end in steps) - min(start for _, start, _ in steps)
        shares.append(sum(end - start for _, start, end in steps) / whole)
        print(f"{len(steps)} steps in {whole:.0f} s, {len(workers)} workers, busy for {shares[-1]:.2f} times that")
    print(f"two workers, one half as fast: busy for {format_spread(shares, 2)} times the time of the sweep")
    return {"busy": shares}


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


BENCHMARKS: dict[str, Callable[[argparse.Namespace, Path], dict[str, Any]]] = {
    "barrier": bench_barrier, "overhead": bench_overhead, "speeds": bench_speeds,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("part", nargs="?", choices=BENCHMARKS, help="default: all, one after the other")
    parser.add_argument("--out", type=Path, help="output folder (default: a temporary one)")
    parser.add_argument("--trials", type=int, default=500, help="trials per sweep of overhead")
    parser.add_argument("--steps", type=int, default=40, help="about a third of a trial's steps in barrier")
    parser.add_argument("--rounds", type=int, default=2, help="rounds of barrier and speeds")
    parser.add_argument("--runs", type=int, default=24, help="budget of a sweep of speeds, in whole runs of 100 steps")
    parser.add_argument("--step-seconds", type=float, default=0.05, help="of the faster worker in speeds")
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
