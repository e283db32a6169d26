"""Compare sweeps with and without a warm start from an earlier study of a related task, on recorded learning curves.

    OMP_NUM_THREADS=1 python -m benchmarks.warm_start ../shared/landscapes --seeds 10

The earlier study is 12 whole runs of TPE on another landscape with the same columns, each in turn. Its four best
trials, as the nearest recorded configurations, are run as the first proposals of our sweep (`warm`), each followed by
one of the sampler. `misled` begins with an earlier study that looked for the highest loss, the worst case; `cold` with
none. The earlier study is not charged. Targets, costs and ratios are those of benchmarks/replay.py; arms share seeds.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import numpy as np
import optuna
from optuna.study import Study

from benchmarks.landscapes import Landscape, load_landscapes
from benchmarks.replay import (
    DEFAULT_FOLDER,
    MIN_TARGET_SEEDS,
    TUNED_ON,
    Costs,
    ReplayedSweep,
    find_target,
    format_table,
    replay_sweep,
)
from benchmarks.replay_arms import ARMS, PAUSING, RecordedSampler, make_tpe, run_queue
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.prior import PriorPoint, choose_points, enqueue_pairs

N_EARLIER_TRIALS, N_PRIOR_TRIALS = 12, 4
EARLIER_SEED = 20_000  # from which the earlier studies are seeded
WARM_ARMS = {"warm": "minimize", "misled": "maximize"}
"""Direction of the earlier study of each arm."""


def run_earlier_study(landscape: Landscape, seed: int, direction: str) -> Study:
    """Run whole trials of TPE on a landscape."""
    sampler = RecordedSampler(make_tpe(seed), landscape)
    study = optuna.create_study(study_name=landscape.name, sampler=sampler, direction=direction)
    for _ in range(N_EARLIER_TRIALS):
        trial = study.ask(sampler.space)
        study.tell(trial, float(landscape.curves[sampler.used[-1]].min()))
    return study


def enqueue_nearest(landscape: Landscape, earlier: Study, study: Study, space: SearchSpace) -> None:
    """Enqueue the recorded configurations nearest to the best trials of the earlier study."""
    points, used = list[PriorPoint](), set[int]()
    for point in choose_points(space, earlier, N_PRIOR_TRIALS):
        nearest = landscape.find_nearest(np.array([point.values[key] for key in space.ranges]), used)
        used.add(nearest)
        recorded = dict(zip(space.ranges, map(float, landscape.points[nearest]), strict=True))
        points.append(replace(point, values=recorded))
    enqueue_pairs(study, space, points, earlier.study_name)


def replay_arms(target: Landscape, siblings: Sequence[Landscape], n_seeds: int, costs: Costs) -> list[ReplayedSweep]:
    """Run sweeps on one landscape, cold, and with a warm start from each sibling in turn."""
    goal = find_target(target, costs, max(n_seeds, MIN_TARGET_SEEDS))
    sweeps = []
    for seed in range(n_seeds):
        arms = {"cold": ARMS["ours"]}
        for name, direction in WARM_ARMS.items():
            earlier = run_earlier_study(siblings[seed % len(siblings)], EARLIER_SEED + seed, direction)
            enqueue = partial(enqueue_nearest, target, earlier)
            arms[name] = partial(run_queue, sampler="curve", pruner=PAUSING, enqueue=enqueue)
        for name, arm in arms.items():
            ratio, n_configs = replay_sweep(target, arm, seed, goal, costs)
            is_tuned_on = target.name in TUNED_ON
            facts = target.name, target.family, target.is_flat, is_tuned_on, name, seed, ratio, n_configs
            sweeps.append(ReplayedSweep(*facts, 0.0))
    return sweeps


def describe_pairs(sweeps: Sequence[ReplayedSweep], arm: str) -> str:
    """Return how often a sweep was cheaper or dearer than the cold one of its seed, and the median difference.

    A sweep that never reaches the target counts with a ratio of 1.
    """
    ratios = {(one.landscape, one.seed, one.arm): 1.0 if one.ratio is None else one.ratio for one in sweeps}
    keys = sorted({(landscape, seed) for landscape, seed, _ in ratios})
    differences = [ratios[*key, arm] - ratios[*key, "cold"] for key in keys]
    better, worse = sum(one < 0 for one in differences), sum(one > 0 for one in differences)
    return (
        f"{arm}: of {len(differences)} sweeps, {better} were cheaper than cold and {worse} dearer; median difference "
        f"{statistics.median(differences):+.3f}, by more than 0.2 dearer in {sum(one > 0.2 for one in differences)}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT_FOLDER, help="folder of .npz files")
    parser.add_argument("--seeds", type=int, default=10, help="sweeps of each arm on each landscape")
    parser.add_argument("--landscapes", default="", metavar="SUBSTRING", help="part of the names of landscapes")
    parser.add_argument("--json", type=Path, help="file for the results")
    chosen = parser.parse_args()
    silence_optuna()
    landscapes = list(load_landscapes(chosen.folder, chosen.landscapes))
    costs, sweeps = Costs(n_evaluations=10, evaluation_cost=0.005), list[ReplayedSweep]()
    for target in landscapes:
        siblings = [one for one in landscapes if one is not target and one.columns == target.columns]
        if siblings:
            sweeps += replay_arms(target, siblings, chosen.seeds, costs)
            print(f"{target.name}: done", file=sys.stderr, flush=True)
    if not sweeps:
        print(f"{chosen.folder}: no two landscapes named *{chosen.landscapes}*.npz have the same columns; nothing was "
              "measured", file=sys.stderr)  # fmt: skip
        return 2
    print(*(describe_pairs(sweeps, arm) for arm in WARM_ARMS), "", *format_table(sweeps), sep="\n")
    if chosen.json:
        chosen.json.write_text(json.dumps({"costs": asdict(costs), "sweeps": [asdict(one) for one in sweeps]}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
