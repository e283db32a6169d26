"""What a sweep costs and finds: against the stock sweeper and random search, without its barrier, beyond training, and
under each pruner. All four, or one of them; what they measured is written to --out as JSON.

    python benchmarks/sweep.py
    python benchmarks/sweep.py search --seeds 5 --trials 24
    python benchmarks/sweep.py barrier --rounds 2
    python benchmarks/sweep.py overhead --trials 500
    python benchmarks/sweep.py pruners --study outputs/sweeps/curves
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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from omegaconf import OmegaConf
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from harness.core.events import EvalEnd
from harness.core.task import Metric
from harness.record import metrics_file
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.study.pruning import report_and_prune
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import RESULT, STUDY_SPEC

ROOT = Path(__file__).resolve().parents[1]
N_PARALLEL = 2
"""Processes that train at a time, one thread each."""

SMALL = ["data.val_fraction=0.01", "batch.batch_size=8", "loop.evals=5", "observers=metrics_only", "device.threads=1"]
"""The default experiment, made small: the same base, LoRA and questions."""

TINY = [
    "start=scratch", "device=cpu", "device.threads=1", "model.layers=1", "model.width=16", "model.heads=2",
    "tokenizer.vocab_size=512", "data.sequence_length=32", "data.val_fraction=0.005", "loop.max_steps=4", "loop.evals=2",
    "batch.batch_size=4",
]  # fmt: skip

STOCK = ["hydra/sweeper=optuna", "hydra.sweeper.n_jobs=1"]
ARMS = {
    "ours": ["sweep.n_jobs=1"],
    "stock": STOCK,
    "random": ["sweep.n_jobs=1", "hydra/sweeper/sampler=random", "pruner=none", "sweep.baseline=false"],
}
TARGET_SHARE = 0.4
"""Of the stock sweeper's tokens, for its best."""


@dataclass(frozen=True)
class RecordedTrial:
    """A trial as it recorded itself; instants in seconds since 1970, evaluations as (tokens, seconds, best loss)."""

    started_at: float
    ended_at: float
    status: str
    tokens: int
    seconds: float
    evaluations: tuple[tuple[int, float, float], ...]


@dataclass(frozen=True)
class TrajectoryPoint:
    """What a sweep had spent by an evaluation, and the best loss it had then."""

    tokens: int
    seconds: float
    best_loss: float


@dataclass(frozen=True)
class ReplayResult:
    """`share` of the tokens that 24 whole trials cost; `regret` is the best loss found above the best there was."""

    token_share: float
    regret: float
    has_pruned_best: bool


def run_sweep_command(folder: Path, *overrides: str) -> float:
    """Seconds that `python run.py -m` takes; its trials are in `folder`/sweeps/sweep, whichever sweeper runs them."""
    folder.mkdir(parents=True)
    began_at = time.monotonic()
    with (folder / "log.txt").open("w") as log:
        subprocess.run(
            build_command(folder, *overrides), cwd=ROOT, env=single_thread_env(), stdout=log, stderr=log, check=True
        )
    return time.monotonic() - began_at


def build_command(folder: Path, *overrides: str) -> list[str]:
    is_stock = "hydra/sweeper=optuna" in overrides
    name = f"hydra.sweep.dir={folder}/sweeps/sweep" if is_stock else "sweep.study=sweep"
    places = [f"output_dir={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db", name]
    return [sys.executable, "run.py", "-m", *places, *overrides]


def single_thread_env() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def read_trials(sweep: Path) -> list[RecordedTrial]:
    """The trials of a sweep's folder in the order in which they ran."""
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
    """A point an evaluation and one a trial; what is found counts where the trial completed, what is spent always."""
    points, tokens, seconds, best = [], 0, 0.0, math.inf
    for run in runs:
        for spent, elapsed, loss in run.evaluations if run.status == "completed" else ():
            best = min(best, loss)
            points.append(TrajectoryPoint(tokens + spent, seconds + elapsed, best))
        tokens, seconds = tokens + run.tokens, seconds + run.seconds
        points.append(TrajectoryPoint(tokens, seconds, best))
    return points


def first_reaching(points: Iterable[TrajectoryPoint], loss: float) -> TrajectoryPoint:
    """Where a loss was first reached; infinite cost where it never was."""
    return next((point for point in points if point.best_loss <= loss), TrajectoryPoint(math.inf, math.inf, math.inf))


def best_loss_within(points: Iterable[TrajectoryPoint], tokens: int) -> float:
    return min((point.best_loss for point in points if point.tokens <= tokens), default=math.inf)


def bench_search(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Every arm under every seed, two at a time, each measured by what its trials recorded."""
    small = [*SMALL, f"loop.max_steps={chosen.steps}"]
    subprocess.run(  # trains the base and tokenises where that is still to be done
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
    """Each arm's measures under one seed; `of_all` and `of_way` are shares of the tokens that the stock sweeper spent,
    in all and until its best."""
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
            "of_all": to_stock.tokens / stock[-1].tokens,
            "of_way": to_stock.tokens / reached.tokens if reached.tokens else math.nan,
        }
    return measures


def print_search(rows: Sequence[Mapping[str, Any]], chosen: argparse.Namespace) -> None:
    print(f"\n{chosen.seeds} seeds, {chosen.trials or 24} trials of {chosen.steps} steps each, two sweeps at a time; "
          "ours begins with the present config as trial 0, the others do not; median (range)")  # fmt: skip
    columns = {
        "best loss": ("best", 4), "at equal tokens": ("best_at_equal_tokens", 4), "tokens": ("tokens", 0),
        "seconds of training": ("seconds", 1), "of the command": ("command_seconds", 1),
    }  # fmt: skip
    print_groups(rows, "arm", columns)
    print(f"\nUntil the stock sweeper's best of the same seed, and until {chosen.loss}")
    print_groups(rows, "arm", {
        "tokens to the stock's best": ("tokens_to_stock", 0), "seconds of training": ("seconds_to_stock", 1),
        f"tokens to {chosen.loss}": ("tokens_to_loss", 0), "seconds of training ": ("seconds_to_loss", 1),
        "share of all the stock's tokens": ("of_all", 2), "of those it took to its best": ("of_way", 2),
    })  # fmt: skip
    print("\nBest loss, and the tokens to the stock's best as a share of all the stock's, by seed")
    lines: dict[int, list[str]] = {}
    for row in rows:
        lines.setdefault(row["seed"], []).append(f"{row['best']:.4f}, {format_number(row['of_all'], 2)}")
    print_table(["seed", *ARMS], [[str(seed), *cells] for seed, cells in lines.items()])
    share = statistics.median(row["of_all"] for row in rows if row["arm"] == "ours")
    print(f"the aim, the stock sweeper's best in at most {TARGET_SHARE} of its tokens: {format_number(share, 2)} in the median, "
          f"{'met' if share <= TARGET_SHARE else 'not met'}")  # fmt: skip


def bench_barrier(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The same grid of long and short trials by two workers of ours and by the stock sweeper's batches of two."""
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
        print(f"{key.replace('_', ' ')}, ours as a share of the stock's: {format_spread(ratios, 2)}")
    return {"rows": rows}


def bench_overhead(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds between the ends of consecutive trials that were not training, over a long sweep of tiny ones."""
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
    """The first, the middle and the last tenth of the trials after the first, by number."""
    tenth = max(1, n // 10)
    return [(1, tenth), ((n - tenth) // 2, (n + tenth) // 2), (n - tenth, n - 1)]


def measure_cpu_seconds(folder: Path, *overrides: str) -> tuple[dict[str, float], float]:
    """CPU seconds of a sweep's processes by what they do, looked at until they end, and when that was."""
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
    said = " ".join(process.cmdline())
    return "worker" if "sweeping.worker" in said else "uploader" if "observers.follow" in said else "other"


def bench_pruners(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Each pruner told the curves of trials that all ran to their end, in sweeps of 24 of them in random order."""
    if chosen.study is None:
        chosen.study = folder / "sweeps" / "sweep"
        every = ["hydra/sweeper/sampler=random", "pruner=none", "loop.evals=10", "observers=metrics_only"]
        run_sweep_command(folder, *every, "sweep.n_trials=48")
    study = load_sweep_study(chosen.study)
    plan = StudySpec(**study.user_attrs[STUDY_SPEC])
    curves = [
        (dict(trial.intermediate_values), trial.user_attrs[RESULT]["tokens"])
        for trial in study.get_trials(states=(TrialState.COMPLETE,))
    ]
    options = chosen.pruners or sorted(path.stem for path in (ROOT / "conf" / "pruner").glob("*.yaml"))
    rows: dict[str, list[ReplayResult]] = {}
    for evals in chosen.evals:
        kept = [({at: curve[at] for at in curve if at * evals % 100 == 0}, tokens) for curve, tokens in curves]
        for option in options:
            make = replace(plan, pruner=load_pruner_options(option)).make_pruner
            rows[f"{option}, {evals} evaluations"] = [
                replay_pruner(sample_curves(kept, chosen.size, number), make(), plan.warmup_share, f"replay-{number}")
                for number in range(chosen.replays)
            ]
    size = min(chosen.size, len(curves))
    print(f"\n{chosen.replays} sweeps of {size} of {len(curves)} trials, median (range); nothing pruned before "
          f"{plan.warmup_share:.0%} of a run")  # fmt: skip
    print_table(
        ["pruner", "share of all tokens", "regret, nats", "mean regret", "regret above 0.01", "best was pruned"],
        [
            [
                name,
                format_spread([one.token_share for one in found], 3),
                format_spread([one.regret for one in found], 4),
                f"{statistics.mean(one.regret for one in found):.4f}",
                f"{statistics.mean(one.regret > 0.01 for one in found):.1%}",
                f"{statistics.mean(one.has_pruned_best for one in found):.1%}",
            ]
            for name, found in rows.items()
        ],
    )
    return {name: [asdict(one) for one in found] for name, found in rows.items()}


Curve = tuple[Mapping[int, float], int]
"""Loss by percent of the run, and the tokens of the whole run."""


def sample_curves(curves: Sequence[Curve], size: int, number: int) -> list[Curve]:
    order = np.random.default_rng(number).permutation(len(curves))[:size]
    return [curves[index] for index in order]


def replay_pruner(
    curves: Sequence[Curve], pruner: optuna.pruners.BasePruner, warmup_share: float, name: str
) -> ReplayResult:
    """One trial after the other told to a real study, as a worker tells it, and ended where its pruner says so."""
    study = optuna.create_study(study_name=name, sampler=RandomSampler(seed=0), pruner=pruner)
    spent, losses = 0.0, []
    for curve, tokens in curves:
        trial = study.ask()
        policy = report_and_prune(trial, warmup_share)
        stopped_at = next((at for at, loss in curve.items() if policy(make_evaluation(at, loss)) is not None), None)
        spent += tokens * (100 if stopped_at is None else stopped_at) / 100
        losses.append(min(curve.values()) if stopped_at is None else math.inf)
        if stopped_at is None:
            study.tell(trial, losses[-1])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    best = min(min(curve.values()) for curve, _ in curves)
    return ReplayResult(spent / sum(tokens for _, tokens in curves), min(losses) - best, min(losses) > best)


def make_evaluation(percent: int, loss: float) -> EvalEnd:
    metrics = {"loss": Metric(loss, "nats/token")}
    return EvalEnd(percent, 0, metrics, loss, percent, False, 0, fraction_done=percent / 100, seconds=0.0)


def load_pruner_options(said: str) -> dict[str, Any]:
    """conf/pruner/NAME.yaml, with the changes of NAME:key=value,key=value."""
    name, _, changes = said.partition(":")
    shipped = OmegaConf.load(ROOT / "conf" / "pruner" / f"{name}.yaml")
    changed = OmegaConf.from_dotlist([change for change in changes.split(",") if change])
    return OmegaConf.to_container(OmegaConf.merge(shipped, changed))


def load_sweep_study(sweep: Path) -> optuna.Study:
    return optuna.load_study(study_name=None, storage=open_storage(None, sweep))


def format_number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "never"


def format_spread(values: Sequence[float], digits: int) -> str:
    """Median (range)."""
    median, low, high = statistics.median(values), min(values), max(values)
    return f"{format_number(median, digits)} ({format_number(low, digits)} to {format_number(high, digits)})"


def print_groups(rows: Sequence[Mapping[str, Any]], by: str, columns: Mapping[str, tuple[str, int]]) -> None:
    """A line for each value of `by`, with the median and range of what each column names, to so many digits."""
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
    "search": bench_search, "barrier": bench_barrier, "overhead": bench_overhead, "pruners": bench_pruners,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("part", nargs="?", choices=BENCHMARKS, help="by default all, one after the other")
    parser.add_argument("--out", type=Path, help="a folder; by default a temporary one")
    parser.add_argument("--seeds", type=int, default=5, help="of search")
    parser.add_argument("--trials", type=int, help="of each sweep; by default 24 in search, 500 in overhead")
    parser.add_argument("--steps", type=int, default=40, help="of a trial in search, about a third of one in barrier")
    parser.add_argument("--loss", type=float, default=5.115, help="that search times all arms to; of 40 steps")
    parser.add_argument("--rounds", type=int, default=2, help="of barrier")
    parser.add_argument("--study", type=Path, help="of pruners: the folder of a sweep that pruned nothing")
    parser.add_argument("--pruners", nargs="+", metavar="NAME[:KEY=VALUE,...]", help="by default all of conf/pruner")
    parser.add_argument("--evals", type=int, nargs="+", default=[5, 10], help="of pruners: evaluations in a run")
    parser.add_argument("--size", type=int, default=24, help="of pruners: trials in a sweep")
    parser.add_argument("--replays", type=int, default=200, help="of pruners")
    chosen = parser.parse_args()
    silence_optuna()
    out = (chosen.out or Path(tempfile.mkdtemp(prefix="sweep-"))).absolute()
    for part in [chosen.part] if chosen.part else BENCHMARKS:
        folder = out / part
        if folder.exists():
            parser.error(f"--out: {folder} exists already; give another folder")
        folder.mkdir(parents=True)
        measured = BENCHMARKS[part](chosen, folder)
        metrics_file.write_json(
            folder / "measured.json", {"asked": {k: str(v) for k, v in vars(chosen).items()}, **measured}
        )
        print(f"\nthe numbers are in {folder / 'measured.json'}\n")


if __name__ == "__main__":
    main()
