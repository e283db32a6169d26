"""Confirm the best trials of a sweep, and conclude what was shown."""

import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.core.errors import RunFailedError
from harness.core.formatting import format_interval, format_signed, objective_label
from harness.core.terminal import fit_record, print_fitted, print_notes
from harness.evidence.confirm.confirmation import run_confirmation
from harness.evidence.confirm.from_study import ConfirmOptions, plan_study_confirmation
from harness.evidence.confirm.plan import ConfirmPlan, Verdict
from harness.evidence.confirm.result import ConfirmResult, result_to_json
from harness.evidence.confirm.text import describe_confirmation, format_confirm_result
from harness.evidence.rescue.record import Ending, RescueRecord, StageResult
from harness.evidence.seed_runs import SeedRunOutcome
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.results.summary import TrialSummary
from harness.sweep.swept_study import SweptStudy, load_swept_study

CONFIRMATION = "confirmation"
BETTER, NOT_SHOWN = "better", "not shown"
NONE_BETTER = "no better config was shown within this budget"


def run_confirmation_stage(
    study_folder: Path, options: ConfirmOptions, storage: str | None, record: RescueRecord
) -> StageResult:
    """Run the best trials and the baseline on fresh seeds, unless the baseline is the best trial.

    The last stage tells the user the conclusion, which is kept in the details.

    Raises:
        RunFailedError: If runs failed.
        KeyboardInterrupt: If it was interrupted.
    """
    silence_optuna()
    study = load_swept_study(str(study_folder), study_folder.parent, storage)
    report = shlex.join(["plateau", "report", str(study.folder), "--to", str(record.path.parent / "report")])
    if not any(not _is_baseline(study, trial) for trial in study.ranking):
        ending = Ending(NOT_SHOWN, f"{NONE_BETTER}: no trial but the baseline completed")
        return StageResult("nothing to confirm: no other trial completed", {"ending": asdict(ending)}, report)
    if _is_baseline(study, study.ranking[0]):
        ending = Ending(NOT_SHOWN, f"{NONE_BETTER}: the baseline was the best of {study.n_measured} trials")
        return StageResult("nothing to confirm: the baseline is the best", {"ending": asdict(ending)}, report)
    options = replace(options, command=format_confirm_command(study.folder, options))
    confirmation = plan_study_confirmation(study, options)
    print_notes(confirmation.runs.rerun.notices)
    print_fitted(*describe_confirmation(confirmation))
    outcome = run_confirmation(confirmation)
    print(*map(fit_record, format_confirm_result(outcome.result)), sep="\n")
    _check_decided(outcome, confirmation.folder)
    ending = conclude(outcome.result)
    content = result_to_json(outcome.result)
    details = {
        "folder": str(confirmation.folder),
        **{key: content[key] for key in ("metric", "split", "n_measured", "seeds", "verdicts", "gaps")},
        "ending": asdict(ending),
    }
    return StageResult(f"{len(outcome.result.runs)} runs; {ending.result}", details, report)


def format_confirm_command(study_folder: Path, options: ConfirmOptions) -> str:
    """Return the command that confirms as the rescue does."""
    given = {
        "--top": options.top,
        "--seeds": options.seeds,
        "--seed-flag": options.rerun.seed_flag,
        "--test-metric": options.rerun.test_metric,
    }
    words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    return shlex.join(["plateau", "confirm", str(study_folder), *words])


def read_conclusion(record: RescueRecord) -> Ending:
    """Return the ending that the confirmation came to."""
    return Ending(**record.get_details(CONFIRMATION)["ending"])


def _is_baseline(study: SweptStudy, trial: TrialSummary) -> bool:
    return trial.is_baseline or (study.baseline is not None and dict(study.baseline.params) == dict(trial.params))


def _check_decided(outcome: SeedRunOutcome[ConfirmResult], folder: Path) -> None:
    """Check that every candidate has a verdict.

    Raises:
        RunFailedError: If runs failed.
        KeyboardInterrupt: If it was interrupted.
    """
    if outcome.result.evaluation.failure:
        raise RunFailedError(f"failed: {outcome.result.reason}; see the logs in {folder}")
    if outcome.result.is_decided:
        return
    if outcome.end.status == "interrupted":
        raise KeyboardInterrupt(f"interrupted: {outcome.end.reason}")
    outcome.end.raise_if_not_completed()
    raise RunFailedError(f"{outcome.result.status}: {outcome.result.reason or 'not every candidate has a verdict'}")


def conclude(result: ConfirmResult) -> Ending:
    """Return what a decided confirmation has shown: a better candidate, or that there is none.

    Of several better ones it is the one that the sweep ranked first: the confirmation's own order would favor luck.
    """
    plan = result.plan
    verdicts = result.evaluation.verdicts
    ranked = [verdicts[candidate.name] for candidate in plan.candidates]
    better = [verdict for verdict in ranked if verdict.status == BETTER]
    if better:
        best = better[0]
        amount = f"{objective_label(plan.metric)} {_format_difference(best)}"
        values = format_values(plan.configs[best.candidate].values)
        sentence = f"better config shown: {values}: {amount} {_describe_basis(plan, best)}"
        return Ending(BETTER, sentence, result.commands[best.candidate])
    shown = "; ".join(_describe_difference(plan, verdict) for verdict in ranked)
    return Ending(NOT_SHOWN, f"{NONE_BETTER}: {shown}")


def _describe_difference(plan: ConfirmPlan, verdict: Verdict) -> str:
    """Return by how much a candidate differs from the baseline, what was shown, and what that rests on."""
    if verdict.comparison is None:
        return f"{verdict.candidate} has no verdict: {verdict.reason}"
    label = f"{objective_label(plan.metric)} of {verdict.candidate}"
    return f"{label} differs by {_format_difference(verdict)} {_describe_basis(plan, verdict)}"


def _format_difference(verdict: Verdict) -> str:
    return f"{format_signed(verdict.difference)} {format_interval(verdict.low, verdict.high)}"


def _describe_basis(plan: ConfirmPlan, verdict: Verdict) -> str:
    """Return which data, how many seeds and how many trials a verdict rests on."""
    chosen = f", chosen from {plan.n_measured} trials" if plan.n_measured else ""
    return f"on the {plan.split} split, {verdict.n} seeds{chosen}"


def format_values(values: Mapping[str, Any]) -> str:
    """Return values by key as a user types them, numbers with a few digits."""
    return ", ".join(
        f"{key}={value:.4g}" if type(value) is float else f"{key}={value}" for key, value in values.items()
    )
