"""Compare pruners on recorded learning curves.

Reads the curves of an unpruned sweep (--study), or runs one of 48 trials, and replays them to each pruner.

    python -m benchmarks.pruners --study outputs/sweeps/curves
"""

import argparse
import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from omegaconf import OmegaConf
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from benchmarks.sweep_runs import ROOT, format_spread, load_sweep_study, print_table, run_sweep_command
from harness.record import metrics_file
from harness.sweep.optuna_internals import silence_optuna, start_new_trial
from harness.sweep.study.liveness import this_process
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import RESULT, STUDY_SPEC, WORKER


@dataclass(frozen=True)
class ReplayResult:
    """Outcome of a replayed sweep.

    `token_share` is its cost relative to unpruned trials, `regret` its best loss above the best of all trials.
    """

    token_share: float
    regret: float
    has_pruned_best: bool


def bench_pruners(chosen: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Replay complete learning curves to each pruner, in sweeps of random order."""
    if chosen.study is None:
        chosen.study = folder / "sweeps" / "sweep"
        unpruned = ["hydra/sweeper/sampler=random", "pruner=none", "loop.evals=10", "observers=metrics_only"]
        run_sweep_command(folder, *unpruned, "sweep.n_trials=48")
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
"""Loss by percent of the run, and tokens of the whole run."""


def sample_curves(curves: Sequence[Curve], size: int, number: int) -> list[Curve]:
    order = np.random.default_rng(number).permutation(len(curves))[:size]
    return [curves[index] for index in order]


def replay_pruner(
    curves: Sequence[Curve], pruner: optuna.pruners.BasePruner, warmup_share: float, name: str
) -> ReplayResult:
    """Report trials to a real study as a worker does, and end each where the pruner says so."""
    study = optuna.create_study(study_name=name, sampler=RandomSampler(seed=0), pruner=pruner)
    spent, losses = 0.0, []
    for curve, tokens in curves:
        trial = start_new_trial(study, {WORKER: this_process()})
        report = TrialReporter(trial, warmup_share).report_share
        stopped_at = next((at for at, loss in curve.items() if report(loss, at / 100) == "prune"), None)
        spent += tokens * (100 if stopped_at is None else stopped_at) / 100
        losses.append(min(curve.values()) if stopped_at is None else math.inf)
        if stopped_at is None:
            study.tell(trial, losses[-1])
        else:
            study.tell(trial, state=TrialState.PRUNED)
    best = min(min(curve.values()) for curve, _ in curves)
    return ReplayResult(spent / sum(tokens for _, tokens in curves), min(losses) - best, min(losses) > best)


def load_pruner_options(text: str) -> dict[str, Any]:
    """Return conf/pruner/NAME.yaml, with the changes of NAME:key=value,key=value."""
    name, _, changes = text.partition(":")
    shipped = OmegaConf.load(ROOT / "conf" / "pruner" / f"{name}.yaml")
    changed = OmegaConf.from_dotlist([change for change in changes.split(",") if change])
    return OmegaConf.to_container(OmegaConf.merge(shipped, changed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="output folder (default: a temporary one)")
    parser.add_argument("--study", type=Path, help="folder of a sweep without pruning (default: run one)")
    parser.add_argument("--pruners", nargs="+", metavar="NAME[:KEY=VALUE,...]", help="default: all of conf/pruner")
    parser.add_argument("--evals", type=int, nargs="+", default=[5, 10], help="evaluations in a run")
    parser.add_argument("--size", type=int, default=24, help="trials in a sweep")
    parser.add_argument("--replays", type=int, default=200, help="sweeps per pruner")
    chosen = parser.parse_args()
    silence_optuna()
    folder = (chosen.out or Path(tempfile.mkdtemp(prefix="pruners-"))).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    measured = bench_pruners(chosen, folder)
    options = {name: str(value) for name, value in vars(chosen).items()}
    metrics_file.write_json(folder / "measured.json", {"options": options, **measured})
    print(f"\nresults: {folder / 'measured.json'}")


if __name__ == "__main__":
    main()
