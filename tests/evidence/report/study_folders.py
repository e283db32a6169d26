"""Folders of sweeps with random results, as a sweep of a command leaves them."""

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import optuna
import yaml

from harness.evidence.ablation.effects import evaluate_ablation
from harness.evidence.ablation.result import AblationResult, write_ablation_result
from harness.evidence.statistics.candidates import compare_candidates
from harness.record.metrics_file import write_json
from harness.sweep.optuna_internals import return_to_waiting, start_new_trial
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, RESULT, STUDY_SPEC, TARGET
from tests.evidence.ablation.losses import list_expected_losses, make_ablation_plan, make_runs
from tests.record.trials import write_trial

optuna.logging.set_verbosity(optuna.logging.WARNING)
SPACE = {"lr": "tag(log,interval(0.0001,0.1))", "width": "4,8,16"}


def make_sweep_folder(
    folder: Path,
    seed: int = 0,
    *,
    direction: str = "minimize",
    objective: str = "val/loss",
    n_trials: int = 10,
    values: Sequence[float] = (),
    has_baseline: bool = True,
) -> Path:
    """Write a sweep whose trials end in every way; `values` are those of completed trials, by default random."""
    rng = random.Random(seed)
    folder.mkdir(parents=True)
    settings = {
        "command": "plateau sweep -- python train.py --lr 'log(1e-4,1e-1)'", "study": folder.name,
        "storage": "study.journal", "n_trials": n_trials, "space": SPACE, "objectives": [objective],
        "sampler": {"_target_": "optuna.samplers.TPESampler"}, "pruner": {"_target_": "optuna.pruners.NopPruner"},
    }  # fmt: skip
    (folder / "sweep.yaml").write_text(yaml.safe_dump(settings))
    write_json(folder / "sweep.json", {"id": "1" * 32, "name": folder.name})
    study = optuna.create_study(
        study_name=folder.name, storage=open_storage(None, folder), direction=direction,
        sampler=optuna.samplers.RandomSampler(seed=seed),
    )  # fmt: skip
    study.set_user_attr(STUDY_SPEC, {"objectives": [objective], "directions": [direction], "program": "command"})
    for number in range(n_trials):
        status = "completed" if number < max(2, len(values)) else rng.choice(
            ["completed", "completed", "completed", "pruned", "diverged", "failed"]
        )  # fmt: skip
        value = values[number] if number < len(values) else rng.choice([1.0, 1e-3, -1.0]) * rng.lognormvariate(0, 1)
        _add_trial(study, folder, number, status, value, is_baseline=has_baseline and number == 0)
    return folder


def _add_trial(study: optuna.Study, folder: Path, number: int, status: str, value: float, is_baseline: bool) -> None:
    trial = study.ask()
    params = {
        "lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True),
        "width": trial.suggest_categorical("width", [4, 8, 16]),
    }
    if is_baseline:
        trial.set_user_attr(BASELINE, True)
    objective = study.user_attrs[STUDY_SPEC]["objectives"][0]
    curve = [value + 1.0, value + 0.5, math.nan if status == "diverged" else value]
    write_trial(
        folder / str(number), curve, status, objective=objective,
        direction=study.user_attrs[STUDY_SPEC]["directions"][0], searched=params, params={},
    )  # fmt: skip
    reason = "" if status == "completed" else f"{status} at 3% of *all* <b>steps</b>"
    trial.set_user_attr(RESULT, {"status": status, "reason": reason, "seconds": 1.5 + number, "tokens": 0,
                                 "best_step": None, "folder": str(number)})  # fmt: skip
    if status == "diverged":
        trial.set_constraint("diverged", 1.0)
    if status == "pruned":
        trial.report(value, 50)
    state = {"completed": None, "pruned": "PRUNED", "diverged": "PRUNED", "failed": "FAIL"}[status]
    if state is None:
        study.tell(trial, value)
    else:
        study.tell(trial, state=optuna.trial.TrialState[state])


def add_paused_trials(
    folder: Path, rungs: Sequence[int], runs: float, attrs: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Add trials of a sweep with a budget in runs, paused at these rungs, in percent, with user attributes."""
    settings = yaml.safe_load((folder / "sweep.yaml").read_text())
    (folder / "sweep.yaml").write_text(yaml.safe_dump({**settings, "runs": runs}))
    study = optuna.load_study(study_name=folder.name, storage=open_storage(None, folder))
    objective = study.user_attrs[STUDY_SPEC]["objectives"][0]
    for rung in rungs:
        trial = start_new_trial(study, attrs)
        params = {"lr": trial.suggest_float("lr", 1e-4, 1e-1, log=True)}
        write_trial(folder / str(trial.number), [9.0, 9.0 - rung / 100], "paused", objective=objective,
                    searched=params, params={})  # fmt: skip
        trial.report(9.0 - rung / 100, rung)
        trial.set_user_attr(TARGET, rung)
        trial.set_user_attr(RESULT, {"status": "paused", "fraction_done": rung / 100, "checkpoint": "x",
                                     "seconds": 1.0, "folder": str(trial.number)})  # fmt: skip
        return_to_waiting(study, trial, {})


def add_confirmation(
    folder: Path,
    baseline: Sequence[float],
    candidates: dict[int, Sequence[float]],
    *,
    direction: str = "minimize",
    margin: float | None = None,
    metric: str = "val/loss",
    split: str = "validation",
) -> Path:
    """Write the confirm.json of a confirmation of trials; NaN is a run that diverged."""
    sign = -1 if direction == "maximize" else 1
    losses = {f"trial {number}": [sign * value for value in values] for number, values in candidates.items()}
    found = compare_candidates([sign * value for value in baseline], losses, paired=True, margin=margin)
    configs = [_make_config("baseline", 0, baseline, metric)]
    configs += [_make_config(f"trial {number}", number, values, metric) for number, values in candidates.items()]
    verdicts = []
    for name, comparison in found.items():
        content = asdict(comparison)
        if direction == "maximize":
            content |= {"difference": -comparison.difference, "low": -comparison.high, "high": -comparison.low}
        verdicts.append({**content, "candidate": name})
    document: dict[str, Any] = {
        "schema": 1, "study": folder.name, "objective": metric, "metric": metric, "split": split,
        "direction": direction, "n_measured": 10, "seeds": [1001 + index for index in range(len(baseline))],
        "looks": [len(baseline)], "margin": margin, "confidence": 0.95, "status": "decided",
        "reason": "", "configs": configs, "verdicts": verdicts, "gaps": [],
    }  # fmt: skip
    (folder / "confirm").mkdir(exist_ok=True)
    write_json(folder / "confirm" / "confirm.json", document)
    return folder / "confirm" / "confirm.json"


def _make_config(name: str, trial: int, values: Sequence[float], metric: str) -> dict[str, Any]:
    runs = [
        {"seed": 1001 + index, "trial": index, "folder": str(index), "tokens": 0, "seconds": 2.0,
         "status": "completed" if math.isfinite(value) else "diverged",
         "values": {metric: value} if math.isfinite(value) else {}}
        for index, value in enumerate(values)
    ]  # fmt: skip
    selected = next((value for value in values if math.isfinite(value)), None)
    return {"name": name, "trial": trial, "values": {}, "command": "", "selected_value": selected, "runs": runs}


def read_numbers(folder: Path) -> dict[str, Any]:
    """Return the numbers of a report by id."""
    return dict(json.loads((folder / "report.json").read_text())["numbers"])


def make_pareto_folder(folder: Path) -> Path:
    """Write a sweep with two objectives, one of them maximized, and a trial that is still running."""
    make_sweep_folder(folder, n_trials=0)
    storage = open_storage(None, folder)
    optuna.delete_study(study_name=folder.name, storage=storage)
    study = optuna.create_study(study_name=folder.name, storage=storage, directions=["minimize", "maximize"])
    study.set_user_attr(STUDY_SPEC, {"objectives": ["val/loss", "accuracy"], "directions": ["minimize", "maximize"]})
    for number, values in enumerate(((2.0, 0.5), (1.5, 0.4), (2.5, 0.9), (3.0, 0.1))):
        trial = study.ask()
        trial.suggest_float("lr", 1e-4, 1e-1, log=True)
        result = {"status": "completed", "seconds": 1.0, "tokens": 10, "folder": str(number)}
        trial.set_user_attr(RESULT, result)
        if number == 0:
            trial.set_user_attr(BASELINE, True)
        study.tell(trial, values)
    study.ask()
    return folder


def add_ablation(
    folder: Path,
    effects: Sequence[float],
    *,
    together: float = 0.0,
    noise: float = 0.05,
    n_seeds: int = 5,
    direction: str = "minimize",
    failed: Mapping[str, Sequence[float | None]] | None = None,
) -> Path:
    """Write the ablation.json of an ablation of trial 1 with an effect of each change.

    `together` is what the first two changes make in addition. `failed` are other losses by seed of some configurations:
    infinity for a diverged run, None for a failed one; with fewer losses than seeds, the others were not run.
    """
    plan = make_ablation_plan(len(effects), n_seeds, direction)
    plan = replace(plan, winner=replace(plan.winner, trial=1))
    rng = np.random.default_rng(len(effects))
    losses: dict[str, Sequence[float | None]] = {
        name: list(expected + rng.normal(0, noise, n_seeds))
        for name, expected in list_expected_losses(plan, effects, together).items()
    }
    runs = make_runs(plan, losses | dict(failed or {}))
    found = evaluate_ablation(plan, runs)
    reason = "; ".join(f"{name}: {failure}" for name, failure in (found.failures or {}).items())
    status = "complete" if found.is_complete else "out of budget" if found.next_runs else "failed"
    result = AblationResult(folder.name, plan, runs, found, status, "" if found.is_complete else reason, {})
    (folder / "ablation").mkdir(exist_ok=True)
    write_ablation_result(folder / "ablation", result)
    return folder / "ablation" / "ablation.json"
