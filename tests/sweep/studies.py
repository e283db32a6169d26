"""Real studies with a loss that costs nothing, whose trials end in every possible way."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.study import Study
from optuna.trial import Trial, TrialState

from harness.sweep.optuna_internals import return_to_waiting, start_new_trial, start_waiting_trial
from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.results.summary import SweepSummary, summarize_study
from harness.sweep.study.budget import Budget
from harness.sweep.study.liveness import this_process
from harness.sweep.study.trial_attrs import (
    BASELINE,
    FIXED_VALUES,
    PROMOTIONS,
    RESULT,
    RETRY_OF,
    STUDY_SPEC,
    TARGET,
    WORKER,
    has_checkpoint,
)
from harness.sweep.study.trial_queue import WORKER_DIED

optuna.logging.set_verbosity(optuna.logging.WARNING)
COMMAND_LINE = TrainingCommandLine(())


def summarize(study: Study, n_trials: int, fixed: Sequence[str] = (), *, runs: float | None = None,
              with_importances: bool = True) -> SweepSummary:  # fmt: skip
    """Summarize a study over our own training, whose trials all have the overrides `fixed`."""
    budget, command_line = Budget(n_trials, runs=runs), TrainingCommandLine(fixed)
    return summarize_study(study, budget, command_line.format_command, with_importances=with_importances)


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
    waiting = [one for one in study.get_trials(deepcopy=False, states=(TrialState.WAITING,)) if not has_checkpoint(one)]
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


def pause_trial(study: Study, trial: Trial, rung: int, value: float | None = None, status: str = "paused") -> None:
    """Let a trial wait at a rung, or after it was interrupted below its target."""
    trial.report(quadratic_loss(trial.params) + 1 if value is None else value, rung)
    if status == "paused":
        trial.set_user_attr(TARGET, rung)
    set_result(trial, status, reason=f"after {rung}% of the run", fraction_done=rung / 100, checkpoint="checkpoints",
               tokens=10 * rung, seconds=rung / 10)  # fmt: skip
    return_to_waiting(study, trial, {})


def promote_trial(study: Study, number: int, target: int, reason: str = "rank") -> Trial:
    """Return a paused trial, running again to the rung `target`."""
    paused = study.trials[number]
    decision = {"start": paused.user_attrs[TARGET], "target": target, "reason": reason}
    decisions = [*paused.user_attrs.get(PROMOTIONS, ()), decision]
    trial = start_waiting_trial(study, paused, {WORKER: this_process(), TARGET: target, PROMOTIONS: decisions})
    assert trial is not None
    return trial


def continue_trial(study: Study, number: int) -> Trial:
    """Return a trial that was interrupted, running again to the same rung."""
    trial = start_waiting_trial(study, study.trials[number], {WORKER: this_process()})
    assert trial is not None
    return trial


def add_paused_trials(study: Study) -> Study:
    """Add the baseline, 30 trials at 4%, of which nine were promoted to 12% and two of them to 36% and to the end.

    One of them is completed, one is at 36%, one runs to 12%, and one was interrupted on its way there.
    """
    complete_trial(study, ask_trial(study, lr=1e-3, rank=8, clip=1.0, baseline=True))
    for index in range(30):
        pause_trial(study, ask_trial(study, lr=1e-4 * 1.2**index, rank=8, clip=1.0), 4, 5 - index / 20)
    for number in range(30, 21, -1):
        pause_trial(study, promote_trial(study, number, 12), 12, 5 - number / 20)
    for number in (30, 29):
        pause_trial(study, promote_trial(study, number, 36), 36, 4.5 - number / 20)
    complete_trial(study, promote_trial(study, 30, 100, "last"), 2.5)
    pause_trial(study, promote_trial(study, 12, 12, "projection"), 8, 4.2, "interrupted")
    promote_trial(study, 21, 12)
    return study


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
