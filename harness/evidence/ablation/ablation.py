"""Plan and run an ablation: every change between a sweep's baseline and its winner, alone and left out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from harness.evidence.ablation.changes import find_changes, list_alternatives, select_changes
from harness.evidence.ablation.effects import evaluate_ablation
from harness.evidence.ablation.plan import WINNER, Ablation, AblationPlan, list_next_runs
from harness.evidence.ablation.result import AblationResult, write_ablation_result
from harness.evidence.ablation.text import describe_config_mean
from harness.evidence.confirm.from_study import ConfirmOptions, choose_configs
from harness.evidence.confirm.plan import BASELINE, ConfirmedConfig, choose_seeds
from harness.evidence.seed_runs import (
    SeedRunOptions,
    SeedRunOutcome,
    format_commands,
    list_difference_metrics,
    list_mean_metrics,
    list_searched_seeds,
    plan_seed_study,
    run_seed_study,
)
from harness.sweep.programs.rerun import prepare_rerun
from harness.sweep.seed_study import SeedRun, Uploaded
from harness.sweep.study_run import MakeWorkers, StudyEnd
from harness.sweep.swept_study import SweptStudy

ABLATION_FOLDER = "ablation"
"""In the folder of a sweep: the study of its ablation."""


@dataclass(frozen=True, kw_only=True)
class AblationOptions(SeedRunOptions):
    """Options of an ablation: the `trial` that is the winner, None for the best, and the changes to take apart."""

    trial: int | None = None
    changes: tuple[str, ...] = ()


def plan_ablation(study: SweptStudy, options: AblationOptions) -> Ablation:
    """Return the ablation of the best trial of a sweep, or of another one.

    Raises:
        ConfigError: If there is nothing to take apart, or the program cannot be run again.
    """
    trials = () if options.trial is None else (options.trial,)
    rerun = prepare_rerun(study, options.rerun)
    first, [best] = choose_configs(study, ConfirmOptions(top=1, trials=trials), rerun.seed_key)
    space = study.spec.build_search_space()
    known_options = {key: space.group_options[key] for key in best.values if key in space.group_options}
    baseline, winner = {**known_options, **first.values}, dict(best.values)
    alternatives = list_alternatives() if study.spec.program == "training" else []
    changes = select_changes(find_changes(baseline, winner, space, alternatives), options.changes)
    seeds = [*list_searched_seeds(study, rerun.seed_key), *([] if rerun.seed is None else [rerun.seed])]
    plan = AblationPlan(
        baseline=ConfirmedConfig(BASELINE, baseline, first.trial, first.selected_value),
        winner=ConfirmedConfig(WINNER, winner, best.trial, best.selected_value),
        changes=tuple(changes),
        seeds=(),
        metric=rerun.test_metric or study.spec.objectives[0],
        split="test" if rerun.test_metric else "validation",
        objective=study.spec.objectives[0],
        direction=study.spec.directions[0],
        n_measured=study.n_measured,
    )
    plan = replace(plan, seeds=choose_seeds(options.seeds, seeds, plan.list_settings()))
    runs = plan_seed_study(
        study,
        ABLATION_FOLDER,
        rerun,
        plan.configs,
        plan.list_settings(),
        plan.metric,
        options,
    )
    return Ablation(study.name, plan, runs)


def run_ablation(ablation: Ablation, make_workers: MakeWorkers | None = None) -> SeedRunOutcome[AblationResult]:
    """Run what the plan needs and return the result; a command that is repeated resumes.

    Args:
        make_workers: Returns the workers; by default processes on this machine.

    Raises:
        ConfigError: If it was begun with another plan.
        RunFailedError: If files cannot be written.
    """

    def record_result(runs: Sequence[SeedRun], end: StudyEnd) -> AblationResult:
        result = make_ablation_result(ablation, runs, end)
        write_ablation_result(ablation.folder, result)
        return result

    def list_next(runs: Sequence[SeedRun]) -> Sequence[tuple[str, int]]:
        return list_next_runs(ablation.plan, runs)

    return run_seed_study(ablation.runs, list_next, record_result, list_ablation_metrics, make_workers)


def make_ablation_result(ablation: Ablation, runs: Sequence[SeedRun], end: StudyEnd) -> AblationResult:
    """Return what the runs show."""
    evaluation = evaluate_ablation(ablation.plan, runs)
    reason = "; ".join(f"{name}: {failure}" for name, failure in (evaluation.failures or {}).items())
    if evaluation.is_complete:
        status, reason = "complete", ""
    elif reason and not evaluation.next_runs:
        status = "failed"
    elif end.status == "completed":  # the study ran all that its budget allows
        status, reason = ("out of budget" if end.reason else "running"), end.reason
    else:
        status, reason = end.status, reason or end.reason
    return AblationResult(
        study=ablation.study,
        plan=ablation.plan,
        runs=runs,
        evaluation=evaluation,
        status=status,
        reason=reason,
        commands=format_commands(ablation.runs, ablation.plan.seeds[0]),
    )


def list_ablation_metrics(result: AblationResult) -> Uploaded:
    """Return what MLflow shows of an ablation: means, effects and intervals as metrics, statuses as tags."""
    plan, found = result.plan, result.evaluation
    metrics: dict[str, float] = {"ablation/tokens": result.tokens, "ablation/seconds": result.seconds}
    metrics |= list_mean_metrics(result.runs, plan.configs, (plan.objective, plan.metric))
    tags = {}
    for effect in [*([found.gain] if found.gain else []), *found.effects]:
        name = f"{effect.kind} {effect.change}".strip()
        tags[name] = effect.verdict.status
        metrics |= list_difference_metrics(name, effect.verdict)
    for interaction in found.interactions:
        name = f"interaction {interaction.change}"
        tags[name] = "shown" if interaction.is_shown else "not shown"
        metrics |= list_difference_metrics(name, interaction)
    return Uploaded(metrics, tags, {name: describe_config_mean(result, name) for name in plan.configs})
