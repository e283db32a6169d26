"""Contents of the result files of a sweep: summary.json and optimization_results.yaml."""

import math
from collections.abc import Iterable
from typing import Any

from optuna.study import Study

from harness.record.sweep_files import read_setting_key
from harness.record.trial_record import name_best_metric, name_metric
from harness.sweep.results.summary import SweepSummary, TrialSummary, find_best_trials, summarize_trials


def optimization_results(study: Study) -> dict[str, Any]:
    """Return the content of optimization_results.yaml: hydra-optuna-sweeper's format plus trial numbers."""
    best = find_best_trials(summarize_trials(study))
    if len(study.directions) > 1:
        solutions = [
            {"params": dict(trial.params), "values": list(trial.values), "number": trial.number} for trial in best
        ]
        return {"name": "optuna", "solutions": solutions}
    if not best:
        return {"name": "optuna", "best_params": {}, "best_value": None, "best_trial": None}
    trial = best[0]
    params = dict(trial.params)
    return {"name": "optuna", "best_params": params, "best_value": trial.values[0], "best_trial": trial.number}


def summary_to_json(summary: SweepSummary, status: str, ended_at_ms: int | None = None) -> dict[str, Any]:
    """Return the content of summary.json.

    The history has one entry per measured trial in the order in which they ended, so that later versions of the file
    only append to it. With several objectives it follows the first.
    """
    baseline, [objective, *_] = summary.baseline, summary.objectives
    name, best_name = f"sweep/{name_metric(objective)}", f"sweep/{name_best_metric(objective)}"
    metrics = {
        **_value_metric(best_name, _find_first(summary.best_trials)),
        **_value_metric(
            f"sweep/baseline_{name_metric(objective)}",
            baseline if baseline and baseline.status == "completed" else None,
        ),
        "sweep/runs": summary.runs_used,
        "sweep/tokens": summary.tokens,
        "sweep/seconds": summary.seconds,
        **{f"sweep/trials.{status}": number for status, number in summary.counts.items()},
    }
    history: list[list[Any]] = []
    best: TrialSummary | None = None
    ended = [trial for trial in summary.trials if trial.is_over and trial.status != "added"]
    for trial in sorted(ended, key=lambda trial: trial.ended_at or 0.0):
        best = _find_first([each for each in (best, trial) if each and each.status == "completed"])
        row = _value_metric(name, trial) | _value_metric(best_name, best)
        if row:
            history.append([trial.number, row, round(1000 * (trial.ended_at or 0.0))])
    tags = {"study": summary.study, "status": status, **_best_trial_tags(summary)}
    return {
        "status": status,
        "ended_at_ms": ended_at_ms,
        "objectives": dict(zip(summary.objectives, summary.directions, strict=True)),
        "metrics": metrics,
        "tags": tags,
        "history": history,
    }


def trials_to_json(summary: SweepSummary) -> dict[str, Any]:
    """Return the trials of a sweep and what follows from them, for programs."""
    trials = [_trial_to_json(trial) for trial in summary.trials]
    best = [
        {**trials[trial.number], "command": command}
        for trial, command in zip(summary.best_trials, summary.best_commands, strict=True)
    ]
    return {
        "study": summary.study,
        "objectives": dict(zip(summary.objectives, summary.directions, strict=True)),
        "best": best,
        "baseline": trials[summary.baseline.number] if summary.baseline else None,
        "counts": {status: count for status, count in summary.counts.items() if count},
        "seconds": summary.seconds,
        "trials": trials,
    }


def _trial_to_json(trial: TrialSummary) -> dict[str, Any]:
    return {
        "number": trial.number,
        "status": trial.status,
        "reason": trial.reason,
        "values": [value if math.isfinite(value) else None for value in trial.values],
        "params": dict(trial.params),
        "percent_done": trial.percent_done,
        "promotions": [{"start": one.start, "target": one.target, "reason": one.reason} for one in trial.promotions],
        "seconds": trial.seconds,
        "is_baseline": trial.is_baseline,
        "prior": dict(trial.prior) or None,
        "retry_of": trial.retry_of,
        "folder": trial.folder,
    }


def _find_first(trials: Iterable[TrialSummary]) -> TrialSummary | None:
    """Return the trial with the best value of the first objective."""
    return min(trials, key=lambda trial: trial.costs[0], default=None)


def _value_metric(name: str, trial: TrialSummary | None) -> dict[str, float]:
    return {name: trial.values[0]} if trial and trial.values and math.isfinite(trial.values[0]) else {}


def _best_trial_tags(summary: SweepSummary) -> dict[str, str]:
    best = summary.best_trial
    if best is None:
        return (
            {"best_trials": ",".join(str(trial.number) for trial in summary.best_trials)} if summary.best_trials else {}
        )
    return {
        "best_trial": str(best.number),
        "best_folder": best.folder,
        **{f"best.{read_setting_key(key)}": str(value) for key, value in best.params.items()},
        "n_measured": str(summary.n_measured),
        "best.command": summary.best_command,
    }
