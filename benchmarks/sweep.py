"""Measure what a sweep costs until it finds what the stock sweeper typically finds, on four small trainings.

Each seed is one of the sampler; the training's seed is fixed. `stock` is hydra-optuna-sweeper with TPE: 24 whole runs.
Where the space is conditional, which it has not, it is our sweeper with TPE and without a pruner. `ours` is what
`python run.py -m` does by default, `ours_24` the same with the stock's budget, and `halving` where no trial
can be continued. The target is fixed by the stock alone: the median of its best losses. The winner of each sweep is
trained again on 3 seeds. Finished sweeps are kept in --to: the same command continues.

    python -m benchmarks.sweep --to FOLDER
    python -m benchmarks.sweep --to FOLDER --task small_gpt --arm stock --seeds 3 --seconds 300
    python -m benchmarks.sweep --to FOLDER --show
"""

import argparse
import shutil
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.sweep_results import format_cost_table
from benchmarks.sweep_runs import build_trajectory, read_trials, run_sweep_command
from harness.config.compose import load_run_config
from harness.core.digests import read_json
from harness.record.metrics_file import write_json
from harness.run.runner import run

N_STOCK_TRIALS = 24
FRESH_SEEDS = (9001, 9002, 9003)
RESULT_FILE = "result.json"


@dataclass(frozen=True)
class SweepTask:
    """A training and the space that is searched. `present` has its present values of searched keys, as overrides."""

    name: str
    settings: Sequence[str]
    space: Sequence[str]
    present: str
    is_conditional: bool = False


LR = "optimizer.lr=tag(log,interval({low},{high}))"
COMMON = ("schedule.warmup_ratio=interval(0.0,0.2)", "loop.grad_clip=tag(log,interval(0.1,10))")
SMALL_GPT = (
    "start=scratch", "lora=none", "data=pydoc_text", "model.layers=1", "model.width=32", "tokenizer.vocab_size=512",
    "data.sequence_length=32", "data.val_fraction=0.005", "batch.batch_size=8", "loop.max_steps=150", "loop.evals=5",
)  # fmt: skip

TASKS = (
    SweepTask(
        "small_gpt",
        SMALL_GPT,
        ["sweeps=none", LR.format(low="1e-4", high="1e-1"), *COMMON],
        present="optimizer.lr=1e-4",
    ),
    SweepTask(
        "optimizers",
        SMALL_GPT,
        ["sweeps=optimizers"],
        present="optimizer.lr=1e-4",
        is_conditional=True,
    ),
    SweepTask(
        "operator",
        ["experiment=operator", "data.train=256", "data.held_out=16", "model.width=8", "model.layers=2",
         "batch.batch_size=16", "loop.epochs=6", "loop.evals=5"],
        ["sweeps=none", LR.format(low="1e-5", high="3e-2"), "task.loss=l2,h1", "model.modes=4,8",
         "optimizer.weight_decay=tag(log,interval(1e-6,1e-2))", "sweep.allow=[task.loss]"],
        present="optimizer.lr=5e-5",
    ),
    SweepTask(
        "flat_lora",
        ["data.val_fraction=0.01", "batch.batch_size=4", "loop.max_steps=75", "loop.evals=5"],
        ["sweeps=none", LR.format(low="3e-4", high="1e-1"), "lora.rank=2,4,8,16,32", *COMMON],
        present="optimizer.lr=1e-3",
    ),
)  # fmt: skip

ARMS: dict[str, list[str]] = {
    "stock": [],
    "ours": [],
    "ours_24": ["sweep.runs=24"],
    "halving": ["pruner=halving", "sweep.runs=8"],
}
"""Overrides of each arm; those of `stock` depend on the task."""


def list_arm_overrides(task: SweepTask, arm: str, seed: int) -> list[str]:
    """Return the overrides of one sweep."""
    common = [*task.settings, *task.space, "observers=metrics_only", "device=cpu", "device.threads=1"]
    common += [f"hydra.sweeper.sampler.seed={seed}", "preflight=skip"]
    if arm != "stock":
        return [*common, *ARMS[arm], "sweep.n_jobs=1", f"sweep.baseline_values=['{task.present}']"]
    if task.is_conditional:
        tpe = ["hydra/sweeper/sampler=tpe", "pruner=none", "sweep.baseline=false", "sweep.n_jobs=1"]
        return [*common, *tpe, f"sweep.n_trials={N_STOCK_TRIALS}"]
    return [*common, "hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1", f"hydra.sweeper.n_trials={N_STOCK_TRIALS}"]


def measure_sweep(task: SweepTask, arm: str, seed: int, folder: Path) -> dict[str, Any]:
    """Run one sweep, and return what it found and cost."""
    shutil.rmtree(folder, ignore_errors=True)
    seconds = run_sweep_command(folder, *list_arm_overrides(task, arm, seed))
    trials = read_trials(folder / "sweeps" / "sweep")
    points = build_trajectory(trials)
    winner = min(trials, key=lambda trial: trial.loss)
    for checkpoints in folder.glob("sweeps/sweep/*/checkpoints"):
        shutil.rmtree(checkpoints)
    return {
        "task": task.name,
        "arm": arm,
        "seed": seed,
        "command_seconds": seconds,
        "trials": dict(Counter(trial.status for trial in trials)),
        "points": [asdict(point) for point in points],
        "winner": winner.folder.name,
        "fresh": {},
    }


def measure_winner(folder: Path) -> None:
    """Train the winner of a measured sweep on the fresh seeds that are missing, and add their losses to its result."""
    result = read_json(folder / RESULT_FILE)
    for seed in FRESH_SEEDS:
        if str(seed) not in result["fresh"]:
            to = folder / "fresh" / str(seed)
            shutil.rmtree(to, ignore_errors=True)
            result["fresh"][str(seed)] = measure_fresh_run(folder / "sweeps" / "sweep" / result["winner"], to, seed)
            write_json(folder / RESULT_FILE, result)
            shutil.rmtree(to / "checkpoints", ignore_errors=True)


def measure_fresh_run(winner: Path, folder: Path, seed: int) -> float | None:
    """Train the winner's configuration with another seed; return its best validation loss, None if it diverged."""
    cfg = load_run_config(winner)
    cfg.seed = seed
    result = run(cfg, folder=folder)
    return result.best_val_loss if result.status == "completed" else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, required=True, help="folder of the results")
    parser.add_argument("--task", choices=[task.name for task in TASKS], help="default: all")
    parser.add_argument("--arm", choices=ARMS, help="default: all")
    parser.add_argument("--seeds", type=int, default=10, help="number of seeds of the sampler")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no sweep after this time")
    parser.add_argument("--show", action="store_true", help="run nothing, print the tables of what is finished")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    until = time.monotonic() + chosen.seconds
    tasks = [task for task in TASKS if chosen.task in (None, task.name)]
    arms = [arm for arm in ARMS if chosen.arm in (None, arm)]
    sweeps = [(task, arm, seed) for seed in range(1, chosen.seeds + 1) for task in tasks for arm in arms]
    for task, arm, seed in () if chosen.show else sweeps:
        folder = chosen.to.absolute() / task.name / f"{arm}-{seed}"
        if not (folder / RESULT_FILE).exists() and time.monotonic() < until:
            write_json(folder / RESULT_FILE, measure_sweep(task, arm, seed, folder))
            print(f"{task.name}, {arm}, seed {seed}: done", flush=True)
    for file in () if chosen.show else sorted(chosen.to.absolute().glob(f"*/*/{RESULT_FILE}")):
        if time.monotonic() < until:
            measure_winner(file.parent)
    files = sorted(chosen.to.glob(f"*/*/{RESULT_FILE}"))
    print(*format_cost_table([read_json(file) for file in files]), sep="\n")


if __name__ == "__main__":
    main()
