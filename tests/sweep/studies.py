"""Real studies with a loss that costs nothing, whose trials end in every possible way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from harness.sweep.optuna_internals import start_new_trial, start_waiting_trial
from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.results.summary import SweepSummary, summarize_study
from harness.sweep.study.liveness import this_process
from harness.sweep.study.trial_attrs import BASELINE, FIXED_VALUES, RESULT, RETRY_OF, STUDY_SPEC, WORKER
from harness.sweep.study.trial_queue import WORKER_DIED

optuna.logging.set_verbosity(optuna.logging.WARNING)
COMMAND_LINE = TrainingCommandLine(())


def summarize(study: Study, n_trials: int, fixed: Sequence[str] = (), **options: Any) -> SweepSummary:
    """Summarize a study over our own training, whose trials all have the overrides `fixed`."""
    return summarize_study(study, n_trials, TrainingCommandLine(fixed).format_command, **options)


def new_study(
    objectives: Sequence[str] = ("best_val_loss",), directions: Sequence[str] | None = None, **options: Any
) -> Study:
    directions = directions or ["minimize"] * len(objectives)
    study = optuna.create_study(study_name="default", sampler=RandomSampler(seed=1), directions=directions, **options)
    study.set_user_attr(STUDY_SPEC, {"objectives": list(objectives), "directions": list(directions)})
    return study


def ask_trial(study: Study, **values: Any) -> Trial:
    """Return a running trial, at the given values of the search space; the sampler chooses the others."""
    names = {"lr": "optimizer.lr", "rank": "lora.rank", "clip": "loop.grad_clip"}
    fixed = {names[name]: value for name, value in values.items() if name in names}
    if fixed:
        study.enqueue_trial(fixed, user_attrs={k: v for k, v in values.items() if k in (BASELINE, RETRY_OF)})
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    attrs = {WORKER: this_process()}
    trial = start_waiting_trial(study, waiting[0], attrs) if waiting else start_new_trial(study, attrs)
    trial.suggest_float("optimizer.lr", 1e-4, 1e-1, log=True)
    trial.suggest_int("lora.rank", 2, 64, log=True)
    trial.suggest_float("loop.grad_clip", 0.1, 10.0, log=True)
    return trial


def ask_conditional_trial(study: Study) -> Trial:
    """Return a running trial of a space in which each optimizer has its own LR range."""
    trial = study.ask()
    optimizer = trial.suggest_categorical("optimizer", ["adamw", "muon"])
    trial.suggest_float(f"optimizer.lr @ optimizer={optimizer}", 1e-4, 1e-1, log=True)
    return trial


def quadratic_loss(params: Mapping[str, Any]) -> float:
    """Return a loss that is least at LR 0.01, falls with the rank, and does not depend on clipping."""
    lr = next(value for name, value in params.items() if name.startswith("optimizer.lr"))
    return 3.0 + (math.log10(lr) + 2) ** 2 + 0.1 * math.log2(64 / params.get("lora.rank", 64))


def set_result(trial: Trial, status: str, **fields: Any) -> None:
    trial.set_user_attr(
        RESULT,
        {"status": status, "reason": "", "seconds": 10.0, "tokens": 1000, "best_step": 90, "folder": str(trial.number)}
        | fields,
    )


def complete_trial(study: Study, trial: Trial, *values: float) -> None:
    values = values or (quadratic_loss(trial.params),)
    if len(study.directions) == 1:
        for share in (0, 50, 100):
            trial.report(values[0] + (100 - share) / 50, share)
    set_result(trial, "completed")
    study.tell(trial, list(values))


def prune_trial(study: Study, trial: Trial) -> None:
    trial.report(quadratic_loss(trial.params) + 1, 50)
    set_result(trial, "pruned", reason="validation loss 5 after 50% of the run", tokens=500, seconds=5.0)
    study.tell(trial, state=TrialState.PRUNED)


def diverge_trial(study: Study, trial: Trial) -> None:
    if len(study.directions) == 1:
        trial.report(9.0, 10)
        trial.report(math.nan, 20)
    trial.set_constraint("diverged", 1.0)
    set_result(trial, "diverged", reason="the loss is nan", tokens=200, seconds=2.0)
    study.tell(trial, state=TrialState.PRUNED)


def fail_trial(study: Study, trial: Trial, status: str | None = None, reason: str = "") -> None:
    """Fail a trial: with a status, as its run would; without, as when its worker is found dead."""
    if status:
        set_result(trial, status, reason=reason)
    else:
        trial.set_user_attr(RESULT, WORKER_DIED)
    study.tell(trial, state=TrialState.FAIL)


def complete_outside_trial(study: Study, value: float, **overrides: Any) -> Trial:
    """Complete a baseline trial whose config is outside the search space."""
    study.enqueue_trial({}, user_attrs={BASELINE: True, FIXED_VALUES: overrides})
    trial = study.ask()
    complete_trial(study, trial, value)
    return trial


def add_every_outcome(study: Study) -> Study:
    """Add trials 0 to 7: the baseline, completed, pruned, diverged, failed and its retry, failed, and one running."""
    complete_trial(study, ask_trial(study, lr=1e-3, rank=8, clip=1.0, baseline=True))
    complete_trial(study, ask_trial(study, lr=9e-3, rank=64, clip=1.0))
    prune_trial(study, ask_trial(study, lr=2e-4, rank=2, clip=1.0))
    diverge_trial(study, ask_trial(study, lr=9e-2, rank=8, clip=1.0))
    fail_trial(study, ask_trial(study, lr=5e-3, rank=16, clip=2.0))
    complete_trial(study, ask_trial(study, lr=5e-3, rank=16, clip=2.0, retry_of=4))
    fail_trial(study, ask_trial(study, lr=3e-3, rank=4, clip=1.0), "failed", "out of memory")
    ask_trial(study, lr=2e-2, rank=32, clip=1.0).report(4.5, 50)
    return study
