"""Compare sweeps on recorded learning curves: tokens until the typical best of the stock sweeper's 24 whole runs.

    OMP_NUM_THREADS=1 python -m benchmarks.replay ../shared/landscapes --seeds 20 --jobs 2
    python -m benchmarks.replay --arms stock ours --landscapes taskset --seeds 6 --json replay.json

The target of a landscape is fixed in advance: the median, over at least 20 seeds, of the best of 24 runs of the stock
sweeper (TPE, nothing is pruned). A sweep is charged the share of each run that it trains, and each evaluation; a paused
trial continues from its checkpoint. The ratio is what it has spent when it measures the target, over what those 24 runs
cost; a sweep ends at a ratio of 1. Proposals are replaced by the nearest recorded configuration.
"""

import argparse
import json
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from optuna.exceptions import ExperimentalWarning

from benchmarks.landscapes import Landscape, Ledger, load_landscapes
from benchmarks.replay_arms import ARMS, N_STOCK_RUNS, Arm
from harness.sweep.optuna_internals import silence_optuna

DEFAULT_FOLDER = Path(__file__).resolve().parents[2] / "shared" / "landscapes"
MIN_TARGET_SEEDS = 20
GOOD_RATIO = 0.2
N_RESAMPLES = 2000
TUNED_ON = (
    "lcbench_126026", "lcbench_3945", "opda_alexnet", "own_wsd", "taskset_patch128_LSTM128_avg_bs64",
    "taskset_patch32_GRU128_bs128", "taskset_patch32_VRNN64_relu_avg_bs128",
)  # fmt: skip
"""Landscapes on which the settings of our sweep were chosen; all others are reported apart."""


@dataclass(frozen=True)
class Costs:
    """Assumptions about evaluations, for every arm alike: how many a run has, and the share of a run that one costs."""

    n_evaluations: int
    evaluation_cost: float


@dataclass(frozen=True)
class Target:
    """Loss to reach, and what 24 runs of the stock sweeper cost on average, in whole runs."""

    loss: float
    cost: float


@dataclass(frozen=True)
class ReplayedSweep:
    """Ratio at which a sweep reached the target, None for never; the configurations that it began, and its CPU time."""

    landscape: str
    family: str
    is_flat: bool
    is_tuned_on: bool
    arm: str
    seed: int
    ratio: float | None
    n_configs: int
    cpu_seconds: float


def find_target(landscape: Landscape, costs: Costs, n_seeds: int) -> Target:
    """Run the stock sweeper with seeds that the arms do not use."""
    ledgers = []
    for seed in range(n_seeds):
        ledger = Ledger(landscape, costs.evaluation_cost, costs.n_evaluations)
        n_runs = min(N_STOCK_RUNS, len(landscape.points) - 1)
        ARMS["stock"](ledger, 10_000 + seed, lambda ledger, n_runs=n_runs: len(ledger.reached) >= n_runs)
        ledgers.append(ledger)
    return Target(
        statistics.median(ledger.best for ledger in ledgers), statistics.mean(ledger.spent for ledger in ledgers)
    )


def replay_sweep(landscape: Landscape, arm: Arm, seed: int, target: Target, costs: Costs) -> tuple[float | None, int]:
    """Return the ratio at which a sweep reached the target, None for never, and the number of its configurations."""
    ledger = Ledger(landscape, costs.evaluation_cost, costs.n_evaluations)
    arm(ledger, seed, lambda ledger: ledger.spent >= target.cost or ledger.best <= target.loss)
    ratio = ledger.spent_until(target.loss) / target.cost
    return (ratio if ratio <= 1 else None), len(ledger.reached)


def replay_landscape(
    landscape: Landscape, arms: Sequence[str], n_seeds: int, costs: Costs
) -> tuple[Target, list[ReplayedSweep]]:
    """Run the sweeps of all arms on one landscape."""
    silence_optuna()
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    target = find_target(landscape, costs, max(n_seeds, MIN_TARGET_SEEDS))
    sweeps = []
    for arm in arms:
        for seed in range(n_seeds):
            started_at = time.process_time()
            ratio, n_configs = replay_sweep(landscape, ARMS[arm], seed, target, costs)
            seconds = time.process_time() - started_at
            facts = landscape.name, landscape.family, landscape.is_flat, landscape.name in TUNED_ON
            sweeps.append(ReplayedSweep(*facts, arm, seed, ratio, n_configs, seconds))
    return target, sweeps


@dataclass(frozen=True)
class Statistics:
    """Quartiles of the ratio over all sweeps, infinite for never, and a 95% interval of the median over landscapes."""

    n_landscapes: int
    n_sweeps: int
    quartiles: tuple[float, float, float]
    interval: tuple[float, float]
    good_share: float
    never_share: float


def summarize_sweeps(sweeps: Sequence[ReplayedSweep]) -> Statistics:
    """Pool sweeps, and resample landscapes for the interval."""
    by_landscape: dict[str, list[float]] = {}
    for sweep in sweeps:
        by_landscape.setdefault(sweep.landscape, []).append(math.inf if sweep.ratio is None else sweep.ratio)
    groups = [np.array(ratios) for ratios in by_landscape.values()]
    pooled, rng = np.concatenate(groups), np.random.default_rng(0)
    drawn = [
        float(_quantile(np.concatenate([groups[index] for index in rng.integers(len(groups), size=len(groups))]), 0.5))
        for _ in range(N_RESAMPLES)
    ]
    low, middle, high = (_quantile(pooled, level) for level in (0.25, 0.5, 0.75))
    return Statistics(
        len(groups),
        len(pooled),
        (low, middle, high),
        (_quantile(np.array(drawn), 0.025), _quantile(np.array(drawn), 0.975)),
        float(np.mean(pooled <= GOOD_RATIO)),
        float(np.mean(np.isinf(pooled))),
    )


def _quantile(values: np.ndarray, level: float) -> float:
    return float(np.quantile(values, level, method="inverted_cdf"))


GROUPS: dict[str, Callable[[ReplayedSweep], bool]] = {
    "not flat": lambda sweep: not sweep.is_flat,
    "not flat, tuned on": lambda sweep: sweep.is_tuned_on and not sweep.is_flat,
    "not flat, held out": lambda sweep: not (sweep.is_tuned_on or sweep.is_flat),
    "flat": lambda sweep: sweep.is_flat,
}


def list_groups(sweeps: Sequence[ReplayedSweep]) -> Iterator[tuple[str, list[ReplayedSweep]]]:
    """Yield the sweeps of each group that has any, then those of each family and landscape."""
    for name, is_member in GROUPS.items():
        if members := [sweep for sweep in sweeps if is_member(sweep)]:
            yield name, members
    for key in ("family", "landscape"):
        for name in sorted({getattr(sweep, key) for sweep in sweeps}):
            yield name, [sweep for sweep in sweeps if getattr(sweep, key) == name]


def format_table(sweeps: Sequence[ReplayedSweep]) -> list[str]:
    """Return a Markdown table with a row for each group and arm."""
    rows = [
        "| landscapes | arm | sweeps | median | 95% interval over landscapes | quartiles | within 0.2 | never |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for group, members in list_groups(sweeps):
        for arm in dict.fromkeys(sweep.arm for sweep in members):
            found = summarize_sweeps([sweep for sweep in members if sweep.arm == arm])
            low, middle, high = map(_format_ratio, found.quartiles)
            interval = " to ".join(map(_format_ratio, found.interval)) if found.n_landscapes > 1 else "one landscape"
            name = f"{group} ({found.n_landscapes})" if found.n_landscapes > 1 else group
            rows.append(
                f"| {name} | {arm} | {found.n_sweeps} | {middle} | {interval} | {low} to {high} "
                f"| {found.good_share:.0%} | {found.never_share:.0%} |"
            )
    return rows


def _format_ratio(ratio: float) -> str:
    return "never" if math.isinf(ratio) else f"{ratio:.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    default_arms = [name for name in ARMS if not name.startswith("syne-tune")]
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="folder of .npz files")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=default_arms, metavar="ARM", help="which of "
                        f"{', '.join(ARMS)}")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=20, help="sweeps of each arm on each landscape")
    parser.add_argument("--landscapes", default="", metavar="SUBSTRING", help="part of the names of landscapes")
    parser.add_argument("--evaluations", type=int, default=10, help="evaluations of a run besides those at rungs")
    parser.add_argument("--evaluation-cost", type=float, default=0.005, help="share of a run that an evaluation costs")
    parser.add_argument("--jobs", type=int, default=1, help="landscapes at a time")
    parser.add_argument("--json", type=Path, help="file for the results")
    chosen = parser.parse_args()
    landscapes = list(load_landscapes(chosen.folder, chosen.landscapes))
    if not landscapes:
        print(f"{chosen.folder}: no landscapes named *{chosen.landscapes}*.npz; nothing was measured", file=sys.stderr)
        return 2
    costs = Costs(chosen.evaluations, chosen.evaluation_cost)
    sweeps: list[ReplayedSweep] = []
    with ProcessPoolExecutor(chosen.jobs) as pool:
        tasks = [pool.submit(replay_landscape, one, chosen.arms, chosen.seeds, costs) for one in landscapes]
        for landscape, task in zip(landscapes, tasks, strict=True):
            target, found = task.result()
            sweeps += found
            seconds = sum(sweep.cpu_seconds for sweep in found)
            print(f"{landscape.name}: {'flat' if landscape.is_flat else 'not flat'}, target {target.loss:.4g}, "
                  f"cost {target.cost:.1f} runs, {seconds:.0f} s", file=sys.stderr, flush=True)  # fmt: skip
    print(f"{chosen.seeds} sweeps of each arm; an evaluation costs {costs.evaluation_cost:.1%} of a run, which has "
          f"{costs.n_evaluations} of them and those at rungs\n")  # fmt: skip
    print("\n".join(format_table(sweeps)))
    if chosen.json:
        chosen.json.write_text(json.dumps({"costs": asdict(costs), "sweeps": [asdict(one) for one in sweeps]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
