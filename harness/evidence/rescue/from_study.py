"""The rescue of a sweep that has been run, of any program: diagnosis, confirmation, report."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials
from harness.core.terminal import print_fitted
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.dialects import guess_dialect, render_suggestions
from harness.diagnosis.thresholds import Thresholds
from harness.evidence.confirm.from_study import ConfirmOptions, plan_study_confirmation
from harness.evidence.rescue.confirm_stage import CONFIRMATION, format_confirm_command, run_confirmation_stage
from harness.evidence.rescue.record import DIAGNOSIS, RescueRecord, StageResult
from harness.evidence.rescue.report_stage import REPORT, run_report_stage
from harness.evidence.rescue.stages import Rescue
from harness.importers.programs.native import read_native
from harness.record.metrics_file import find_record
from harness.sweep.results.summary import TrialSummary
from harness.sweep.swept_study import SweptStudy, load_swept_study

RESCUE_FOLDER = "rescue"


def plan_study_rescue(study_folder: Path, folder: Path | None, options: ConfirmOptions, storage: str | None) -> Rescue:
    """Return the rescue of the sweep in `study_folder`.

    Raises:
        ConfigError: If it cannot be read, has nothing to confirm, or its program cannot be run again.
    """
    study = load_swept_study(str(study_folder), study_folder.parent, storage)
    confirmation = plan_study_confirmation(study, options)  # errors show before anything is written
    return Rescue(
        stages={
            DIAGNOSIS: partial(run_study_diagnosis, study, options),
            CONFIRMATION: partial(run_confirmation_stage, study.folder, options, storage),
            REPORT: partial(run_report_stage, study.folder, storage),
        },
        folder=(folder or study.folder / RESCUE_FOLDER).absolute(),
        inputs={
            "study": str(study.folder),
            "top": options.top,
            "seeds": options.seeds,
            "seed_flag": options.rerun.seed_flag,
            "test_metric": options.rerun.test_metric,
            "storage": hide_credentials(storage) if storage else None,
        },
        summary=f"at most {confirmation.max_runs} runs for the confirmation",
        notices=("a sweep that has been run is not checked by preflight",),
    )


def run_study_diagnosis(study: SweptStudy, options: ConfirmOptions, record: RescueRecord) -> StageResult:
    """Diagnose the runs of the baseline and of the best trial."""
    chosen: dict[str, TrialSummary | None] = {"baseline": study.baseline, "best": next(iter(study.ranking), None)}
    details: dict[str, Any] = {}
    for name, trial in chosen.items():
        if trial is not None and not (name == "best" and trial is study.baseline):
            details[name] = _diagnose_trial(study, trial)
            print_fitted(f"{name}, trial {trial.number}:", *(f"  {line}" for line in details[name]["diagnoses"]))
    kinds = [kind for found in details.values() for kind in found["kinds"]]
    summary = ", ".join(dict.fromkeys(kinds)) or "no problems found in the curves"
    return StageResult(summary, details, format_confirm_command(study.folder, options))


def _diagnose_trial(study: SweptStudy, trial: TrialSummary) -> dict[str, Any]:
    """Return the kinds of the diagnoses of a trial, and a line for each, or why it cannot be diagnosed."""
    try:
        history = read_native(find_record(study.folder / (trial.folder or str(trial.number))))
    except (OSError, ValueError) as error:
        return {"trial": trial.number, "kinds": [], "diagnoses": [f"not diagnosed: {error}"]}
    found = diagnose(history)
    dialect = guess_dialect(history.facts)

    def iterate_lines() -> Iterator[str]:
        for diagnosis in found:
            tries = "; ".join(render_suggestions(diagnosis.suggestions, dialect))
            yield f"{diagnosis.kind}: {diagnosis.reason}{f'; try {tries}' if tries else ''}"
        if not found:
            yield assess(history, Thresholds()).conclusion

    return {"trial": trial.number, "kinds": [one.kind for one in found], "diagnoses": list(iterate_lines())}
