"""A study as plain dataclasses: its trials, and what follows from them."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from harness.record.trial_record import Direction
from harness.sweep.results.boundaries import BoundaryHit, find_boundary_hit
from harness.sweep.results.importance import compute_importances, find_idle_params
from harness.sweep.study.budget import Budget, find_share_done
from harness.sweep.study.promotion import Promotion
from harness.sweep.study.rungs import FULL_RUN
from harness.sweep.study.trial_attrs import (
    BASELINE,
    PRIOR,
    PROMOTIONS,
    RETRY_OF,
    SEED_RUN,
    STUDY_SPEC,
    TARGET,
    is_cut_off,
    is_own_trial,
    is_paused,
    read_trial_result,
    trial_values,
)

Status = Literal["queued", "running", "paused", "completed", "pruned", "diverged", "failed", "interrupted", "added"]
STATUSES: tuple[Status, ...] = (
    "completed", "paused", "pruned", "diverged", "failed", "interrupted", "added", "running", "queued"
)  # fmt: skip
MEASURED: tuple[Status, ...] = ("completed", "paused", "pruned", "diverged")
"""Statuses of the trials among which the best was chosen."""


@dataclass(frozen=True)
class TrialSummary:
    """One trial. The status "added" is that of a trial that another program, such as a notebook, ran or ended.

    A "paused" trial waits at a rung, and an "interrupted" one may wait to be continued; neither is over then.
    `params` are the values that it sets, or the name of its configuration and its seed, if that is run with several.
    `values` are its objectives; for a trial that has not completed the last reported value, and empty if there is none.
    `costs` are these values, negated where the study maximizes, so that lower is better.
    `percent_done` is the share of the run in percent, at the last reported value, and `share_done` is the share that
    its result says, from 0 to 1. A running trial runs to the rung `target`. `seconds` and `tokens` are those of the
    parts of its run that have ended, and instants are in seconds since the epoch. `prior` is where the values come from
    that a warm start gave it, empty for other trials.
    """

    number: int
    status: Status
    values: tuple[float, ...]
    costs: tuple[float, ...]
    params: Mapping[str, Any]
    percent_done: int
    share_done: float
    target: int
    promotions: tuple[Promotion, ...]
    seconds: float | None
    tokens: int
    reason: str
    retry_of: int | None
    is_baseline: bool
    prior: Mapping[str, Any]
    best_step: int | None
    folder: str
    started_at: float | None
    ended_at: float | None

    @property
    def is_over(self) -> bool:
        return self.ended_at is not None

    @property
    def n_segments(self) -> int:
        """Number of parts of its run that have ended: every promotion follows a pause."""
        return len(self.promotions) + (self.is_over or self.status == "paused")


@dataclass(frozen=True)
class SweepSummary:
    """State of a sweep.

    `best_trials` holds the best trial, or with several objectives the Pareto front, and `best_commands` the commands
    that rerun them. `importances` are by Optuna's parameter names, conditional ones included. `idle_params` hardly
    affect the loss in the completed trials.
    """

    study: str
    objectives: tuple[str, ...]
    directions: tuple[Direction, ...]
    budget: Budget
    trials: tuple[TrialSummary, ...]
    best_trials: tuple[TrialSummary, ...]
    best_commands: tuple[str, ...]
    importances: Mapping[str, float]
    idle_params: tuple[str, ...]
    boundary_hits: tuple[BoundaryHit, ...]

    @property
    def counts(self) -> dict[Status, int]:
        return count_statuses(self.trials)

    @property
    def best_trial(self) -> TrialSummary | None:
        """The best trial; None with several objectives, which only have a Pareto front."""
        return self.best_trials[0] if self.best_trials and len(self.objectives) == 1 else None

    @property
    def baseline(self) -> TrialSummary | None:
        return find_baseline(self.trials)

    @property
    def n_measured(self) -> int:
        return sum(self.counts[status] for status in MEASURED)

    @property
    def n_completed(self) -> int:
        return self.counts["completed"]

    @property
    def runs_used(self) -> float:
        """The sum of the shares of a run that the trials have done."""
        return sum_shares(self.trials)

    @property
    def tokens(self) -> int:
        return sum(trial.tokens for trial in self.trials)

    @property
    def seconds(self) -> float:
        return sum(trial.seconds or 0.0 for trial in self.trials)

    @property
    def best_command(self) -> str:
        """The command that reruns the best trial; empty if there is none."""
        return self.best_commands[0] if self.best_trial else ""


def summarize_trials(study: Study) -> list[TrialSummary]:
    """Return all trials of the study, by number."""
    signs = _read_signs(study)
    return [_summarize_trial(trial, signs) for trial in study.get_trials(deepcopy=False)]


def summarize_study(
    study: Study,
    budget: Budget,
    format_command: Callable[[Mapping[str, Any]], str],
    *,
    with_importances: bool = True,
) -> SweepSummary:
    """Summarize a study; `format_command` returns the command of a trial with values.

    Importances take one to two seconds with hundreds of trials; `with_importances=False` leaves them out.
    """
    trials, objectives = tuple(summarize_trials(study)), tuple(read_objectives(study))
    best_trials = tuple(find_best_trials(trials))
    hits: list[BoundaryHit | None] = []
    if best_trials and len(objectives) == 1:
        best = study.get_trials(deepcopy=False)[best_trials[0].number]
        hits = [find_boundary_hit(name, value, best.distributions[name]) for name, value in best.params.items()]
    importances = compute_importances(study) if with_importances else {}
    return SweepSummary(
        study=study.study_name,
        objectives=objectives,
        directions=tuple("maximize" if sign < 0 else "minimize" for sign in _read_signs(study)),
        budget=budget,
        trials=trials,
        best_trials=best_trials,
        best_commands=tuple(format_command(trial.params) for trial in best_trials),
        importances=importances,
        idle_params=tuple(find_idle_params(study, importances)),
        boundary_hits=tuple(hit for hit in hits if hit),
    )


def _read_signs(study: Study) -> list[int]:
    """Return -1 for each objective that is maximized, else 1."""
    return [-1 if direction == StudyDirection.MAXIMIZE else 1 for direction in study.directions]


def read_objectives(study: Study) -> list[str]:
    """Return the names of the study's objectives."""
    return list(study.user_attrs.get(STUDY_SPEC, {}).get("objectives", ["best_val_loss"]))


def find_best_trials(trials: Iterable[TrialSummary]) -> list[TrialSummary]:
    """Return the Pareto front of the completed trials, ordered by the first objective.

    With one objective that is the best trial only, the earliest if several are equally good.
    """
    front: list[TrialSummary] = []
    finite = [trial for trial in trials if trial.status == "completed" and all(map(math.isfinite, trial.costs))]
    for trial in sorted(finite, key=lambda trial: (trial.costs, trial.number)):
        if not any(_is_dominated(trial.costs, other.costs) for other in front):
            front.append(trial)
    return front[:1] if front and len(front[0].values) == 1 else front


def find_baseline(trials: Iterable[TrialSummary]) -> TrialSummary | None:
    """Return the trial of the baseline config; if it was retried, the attempt that completed."""
    attempts = [trial for trial in trials if trial.is_baseline]
    return next((trial for trial in attempts if trial.status == "completed"), attempts[-1] if attempts else None)


def describe_total_failure(trials: Sequence[TrialSummary]) -> str:
    """Return that all trials of a study that is over failed or diverged; an empty string otherwise."""
    counts = count_statuses(trials)
    n_bad = counts["failed"] + counts["diverged"]
    if not n_bad or any(counts[status] for status in ("completed", "paused", "pruned", "added", "running", "queued")):
        return ""
    parts = [f"{counts[status]} {status}" for status in ("failed", "diverged") if counts[status]]
    return f"no trial has a result: {', '.join(parts)}"


def count_statuses(trials: Iterable[TrialSummary]) -> dict[Status, int]:
    """Return the number of trials for every status, zeros included."""
    return dict.fromkeys(STATUSES, 0) | Counter(trial.status for trial in trials)


def count_paused(trials: Iterable[TrialSummary]) -> dict[int, int]:
    """Return how many trials are paused at each rung, in percent, from the lowest on."""
    counts = Counter(trial.target for trial in trials if trial.status == "paused")
    return dict(sorted(counts.items()))


def sum_shares(trials: Iterable[TrialSummary]) -> float:
    """Return the sum of the shares of a run that trials have done, without those of other programs."""
    return sum(trial.share_done for trial in trials if trial.status != "added")


def _summarize_trial(trial: FrozenTrial, signs: Sequence[int]) -> TrialSummary:
    attrs = trial.user_attrs
    result = read_trial_result(trial)
    status = _trial_status(trial, result.get("status"))
    last = trial.last_step if is_own_trial(trial) or result else None  # another program's steps are not percentages
    values = trial.values if last is None or trial.values else [trial.intermediate_values[last]]
    has_value = status in ("completed", "pruned", "added") or not trial.state.is_finished()
    values = values if values and has_value else []
    reason = result.get("reason", "") if result.get("status") == status else ""
    return TrialSummary(
        number=trial.number,
        status=status,
        values=tuple(values),
        costs=tuple(sign * value for sign, value in zip(signs, values, strict=False)),
        params=attrs.get(SEED_RUN) or trial_values(trial),
        percent_done=FULL_RUN if status == "completed" else last or 0,
        share_done=find_share_done(trial),
        target=attrs.get(TARGET, FULL_RUN),
        promotions=_read_promotions(trial),
        seconds=result.get("seconds"),
        tokens=result.get("tokens", 0),
        reason="by another program" if status == "added" else reason,
        retry_of=attrs.get(RETRY_OF),
        is_baseline=BASELINE in attrs,
        prior=_read_prior(trial),
        best_step=result.get("best_step"),
        folder=result.get("folder", ""),
        started_at=trial.datetime_start.timestamp() if trial.datetime_start else None,
        ended_at=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _read_promotions(trial: FrozenTrial) -> tuple[Promotion, ...]:
    found = trial.user_attrs.get(PROMOTIONS)
    decisions = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []
    own = [one for one in decisions if one.keys() == {"start", "target", "reason"}]
    return tuple(Promotion(number=trial.number, **one) for one in own)


def _read_prior(trial: FrozenTrial) -> Mapping[str, Any]:
    found = trial.user_attrs.get(PRIOR)
    return found if isinstance(found, dict) and {"trial", "lr_band"} & found.keys() and "source" in found else {}


def _trial_status(trial: FrozenTrial, recorded: str | None) -> Status:
    if trial.state.is_finished() and recorded is None:
        return "added"
    match trial.state:
        case TrialState.COMPLETE:
            return "completed"
        case TrialState.PRUNED:
            return "diverged" if recorded == "diverged" or trial.constraints.get("diverged", 0) > 0 else "pruned"
        case TrialState.FAIL:
            return "interrupted" if recorded == "interrupted" else "failed"
        case TrialState.RUNNING:
            return "running"
    return "paused" if is_paused(trial) else "interrupted" if is_cut_off(trial) else "queued"


def _is_dominated(costs: Sequence[float], others: Sequence[float]) -> bool:
    return others != costs and all(other <= cost for cost, other in zip(costs, others, strict=True))
