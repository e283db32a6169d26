"""Plan the confirmation of a sweep: its best trials against its baseline."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from harness.core.errors import ConfigError
from harness.evidence.confirm.plan import (
    BASELINE,
    Confirmation,
    ConfirmedConfig,
    ConfirmPlan,
    check_enough_seeds,
    choose_looks,
    choose_seeds,
)
from harness.evidence.seed_runs import SeedRunOptions, list_searched_seeds, plan_seed_study
from harness.record.trial_record import Direction
from harness.sweep.programs.rerun import prepare_rerun
from harness.sweep.rerun import Rerun
from harness.sweep.results.summary import TrialSummary
from harness.sweep.swept_study import SweptStudy

CONFIRM_FOLDER = "confirm"
"""In the folder of a sweep: the study of its confirmation."""


@dataclass(frozen=True, kw_only=True)
class ConfirmOptions(SeedRunOptions):
    """Options of a confirmation. `trials` are numbers of those to confirm, in place of the best `top`."""

    top: int = 3
    trials: tuple[int, ...] = ()
    margin: float | None = None

    @property
    def max_runs(self) -> int:
        """Number of runs for the best `top` trials and the baseline, if none is decided early."""
        return (self.top + 1) * self.seeds

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < 1:
            raise ValueError(f"--top: {self.top} must be at least 1")
        if self.margin is not None and not (self.margin > 0 and math.isfinite(self.margin)):
            raise ValueError(f"--margin: {self.margin} must be above 0, in the unit of the metric")


def plan_study_confirmation(study: SweptStudy, options: ConfirmOptions) -> Confirmation:
    """Return the confirmation of the best trials of a sweep, or of those that were chosen by number.

    Raises:
        ConfigError: If there is nothing to confirm, or the program cannot be run again.
    """
    rerun = prepare_rerun(study, options.rerun)
    baseline, candidates = choose_configs(study, options, rerun.seed_key)
    plan = make_plan(
        baseline,
        candidates,
        rerun,
        study.spec.objectives[0],
        study.spec.directions[0],
        options,
        used_seeds=list_searched_seeds(study, rerun.seed_key),
        n_measured=study.n_measured,
    )
    return Confirmation(
        study=study.name,
        plan=plan,
        runs=plan_seed_study(
            study,
            CONFIRM_FOLDER,
            rerun,
            plan.configs,
            plan.list_settings(),
            plan.metric,
            options,
        ),
    )


def make_plan(
    baseline: ConfirmedConfig,
    candidates: Sequence[ConfirmedConfig],
    rerun: Rerun,
    objective: str,
    direction: Direction,
    options: ConfirmOptions,
    *,
    used_seeds: Iterable[int],
    n_measured: int | None,
) -> ConfirmPlan:
    """Return the plan of a confirmation, with seeds that are not among `used_seeds`.

    Raises:
        ConfigError: If so few seeds can show nothing for so many candidates.
    """
    check_enough_seeds(options.seeds, len(candidates))
    used = [*used_seeds, *([] if rerun.seed is None else [rerun.seed])]
    plan = ConfirmPlan(
        baseline=baseline,
        candidates=tuple(candidates),
        seeds=(),
        looks=choose_looks(options.seeds, len(candidates)),
        margin=options.margin,
        metric=rerun.test_metric or objective,
        split="test" if rerun.test_metric else "validation",
        objective=objective,
        direction=direction,
        n_measured=n_measured,
    )
    return replace(plan, seeds=choose_seeds(options.seeds, used, plan.list_settings()))


def choose_configs(
    study: SweptStudy, options: ConfirmOptions, seed_key: str
) -> tuple[ConfirmedConfig, list[ConfirmedConfig]]:
    """Return the baseline of a sweep, and its best trials or those that were chosen by number.

    Trials that differ only in the seed, if the sweep has searched it, are one configuration with the name of the best.
    Without a trial of the current configuration the baseline is the program without values of a trial.

    Raises:
        ConfigError: If there are none.
    """
    first = study.baseline
    baseline = ConfirmedConfig(BASELINE, {}) if first is None else _make_config(BASELINE, first, seed_key)
    seen = [dict(baseline.values)]
    candidates: list[ConfirmedConfig] = []
    for trial in _list_chosen_trials(study, options.trials) if options.trials else study.ranking:
        config = _make_config(f"trial {trial.number}", trial, seed_key)
        if dict(config.values) in seen or (len(candidates) == options.top and not options.trials):
            continue
        seen.append(dict(config.values))
        candidates.append(config)
    if not candidates:
        reason = (
            "the baseline cannot be compared with itself"
            if options.trials
            else "no trial but the baseline has completed"
        )
        raise ConfigError(f"STUDY: {study.name}: nothing to compare with the baseline: {reason}")
    return baseline, candidates


def _list_chosen_trials(study: SweptStudy, numbers: Sequence[int]) -> list[TrialSummary]:
    completed = {trial.number: trial for trial in study.ranking} if len(study.spec.objectives) == 1 else {
        trial.number: trial for trial in study.trials if trial.status == "completed"
    }  # fmt: skip
    for number in numbers:
        if number not in completed:
            known = ", ".join(map(str, sorted(completed)))
            raise ConfigError(f"--trial {number}: {study.name} has no such completed trial; it has {known or 'none'}")
    return [completed[number] for number in numbers]


def _make_config(name: str, trial: TrialSummary, seed_key: str) -> ConfirmedConfig:
    values = {key: value for key, value in trial.params.items() if key != seed_key}
    selected = trial.values[0] if trial.status == "completed" and trial.values else None
    return ConfirmedConfig(name, values, trial.number, selected)
