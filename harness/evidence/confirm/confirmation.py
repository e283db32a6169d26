"""Run a confirmation: the baseline and the candidates on fresh seeds, until every candidate has a verdict."""

from collections.abc import Sequence

from harness.evidence.confirm.plan import Confirmation, evaluate_runs
from harness.evidence.confirm.result import ConfirmResult, write_confirm_result
from harness.evidence.confirm.text import describe_config_result
from harness.evidence.seed_runs import (
    SeedRunOutcome,
    format_commands,
    list_difference_metrics,
    list_mean_metrics,
    run_seed_study,
)
from harness.sweep.seed_study import SeedRun, Uploaded
from harness.sweep.study_run import MakeWorkers, StudyEnd


def run_confirmation(
    confirmation: Confirmation, make_workers: MakeWorkers | None = None
) -> SeedRunOutcome[ConfirmResult]:
    """Run what the plan needs, look by look, and return the result; a command that is repeated resumes.

    Args:
        make_workers: Returns the workers; by default processes on this machine.

    Raises:
        ConfigError: If it was begun with another plan.
        RunFailedError: If files cannot be written.
    """

    def record_result(runs: Sequence[SeedRun], end: StudyEnd) -> ConfirmResult:
        result = make_result(confirmation, runs, end)
        write_confirm_result(confirmation.folder, result)
        return result

    def list_next_runs(runs: Sequence[SeedRun]) -> Sequence[tuple[str, int]]:
        return evaluate_runs(confirmation.plan, runs).next_runs

    return run_seed_study(confirmation.runs, list_next_runs, record_result, list_uploaded, make_workers)


def make_result(confirmation: Confirmation, runs: Sequence[SeedRun], end: StudyEnd) -> ConfirmResult:
    """Return what the runs show."""
    plan = confirmation.plan
    evaluation = evaluate_runs(plan, runs)
    has_verdicts = all(one.name in evaluation.verdicts for one in plan.candidates)
    reason = evaluation.failure or end.reason
    status = "decided" if has_verdicts else "failed" if evaluation.failure else end.status
    if status == "completed":  # the study ran all that its budget allows
        status = "out of budget" if end.reason else "running"
    return ConfirmResult(
        study=confirmation.study,
        command=confirmation.runs.command,
        plan=plan,
        runs=runs,
        evaluation=evaluation,
        status=status,
        reason="" if has_verdicts else reason,
        commands=format_commands(confirmation.runs, plan.seeds[0]),
    )


def list_uploaded(result: ConfirmResult) -> Uploaded:
    """Return what MLflow shows of a confirmation: means and intervals as metrics, verdicts as tags and in words."""
    plan = result.plan
    metrics: dict[str, float] = {"confirm/tokens": result.tokens, "confirm/seconds": result.seconds}
    metrics |= list_mean_metrics(result.runs, plan.configs, (plan.objective, plan.metric))
    tags = {}
    for name, verdict in result.evaluation.verdicts.items():
        tags[f"verdict.{name}"] = verdict.status
        metrics |= list_difference_metrics(name, verdict)
    return Uploaded(metrics, tags, {name: describe_config_result(result, name) for name in plan.configs})
