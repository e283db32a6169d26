"""The first two stages of a rescue: preflight, and the diagnosis of a run of the baseline."""

import gc
import shlex
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from harness.core.errors import RunFailedError
from harness.core.events import Diagnosis
from harness.core.files import write_atomically
from harness.core.paths import TRACEBACK_FILE, run_command
from harness.core.terminal import print_fitted
from harness.diagnosis.dialects import render_suggestions
from harness.diagnosis.render import find_best_loss
from harness.diagnosis.thresholds import change_thresholds
from harness.evidence.rescue.record import Ending, RescueRecord, StageResult
from harness.evidence.rescue.request import TrainingRescue
from harness.preflight import CHECKS, preflight
from harness.preflight.render import describe_start, format_finding, print_finding, summarize_report
from harness.preflight.report import Finding, PreflightReport
from harness.record import metrics_file
from harness.run.preflight_adapter import open_training_setup
from harness.run.runner import run
from harness.run.unrecorded_end import complete_record
from harness.sweep.programs.training.followup_sweep import DiagnosedRun, diagnose_own_run

FINDINGS_FILE = "preflight.txt"
MEASURED = ("completed", "diverged")
"""Statuses of a run that shows what its configuration does."""


def run_preflight(rescue: TrainingRescue, record: RescueRecord) -> StageResult:
    """Check the baseline; a failed check ends the rescue."""
    by_hand = shlex.join([*run_command(), *rescue.public_overrides])
    cfg = rescue.compose_config()
    if cfg.preflight == "skip":
        return StageResult("left out, as preflight=skip says", {"status": "skip"}, by_hand)
    with open_training_setup(cfg) as setup:
        print_fitted(describe_start(setup, list(CHECKS)))
        report = preflight(setup, on_finding=_print_problem)
    gc.collect()
    torch.cuda.empty_cache()
    summary = summarize_report(report)
    lines = [*(format_finding(check, finding) for check, finding in report), summary, ""]
    write_atomically(rescue.folder / FINDINGS_FILE, "\n".join(lines))
    details = {key: value for key, value in report.to_dict().items() if key != "findings"}
    if report.failed_checks and cfg.preflight == "stop":
        return StageResult(summary, details, ending=_describe_fault(report))
    return StageResult(summary, details, by_hand)


def read_findings(folder: Path) -> str:
    """Return the findings of preflight in the folder of a rescue; empty if it was left out."""
    file = folder / FINDINGS_FILE
    return file.read_text() if file.exists() else ""


def _print_problem(check: str, finding: Finding) -> None:
    if finding.level in ("warn", "fail"):
        print_finding(check, finding)


def _describe_fault(report: PreflightReport) -> Ending:
    first = report.failed_checks[0]
    finding = next(one for one in report.findings[first] if one.level == "fail")
    sentence = f"your training has a fault, and nothing was searched: {first}: {finding.describe()}"
    return Ending("fault", f"{sentence.rstrip('.')}. Fix it and run the same command; preflight=warn searches anyway")


def run_diagnosis(rescue: TrainingRescue, record: RescueRecord) -> StageResult:
    """Diagnose the recorded run, or run the baseline once and diagnose that."""
    folder = rescue.run or _find_ended_run(rescue) or _run_baseline(rescue)
    found = diagnose_with_config(rescue, folder)
    best = find_best_loss(found.history)
    print_fitted(f"run {folder}")
    for diagnosis in found.diagnoses:
        print_fitted(f"  {diagnosis.kind} ({diagnosis.confidence:.0%}): {diagnosis.reason}")
    details = {
        "run": str(folder),
        "status": found.history.facts.status,
        "best_val_loss": best[1] if best else None,
        "diagnoses": [_diagnosis_to_json(diagnosis) for diagnosis in found.diagnoses],
    }
    kinds = ", ".join(diagnosis.kind for diagnosis in found.diagnoses) or next(found.describe_diagnoses())
    loss = f"best validation loss {best[1]:.4g}; " if best else "no validation loss; "
    return StageResult(f"{loss}{kinds}", details, shlex.join(["plateau", "prescribe", str(folder)]))


def diagnose_with_config(rescue: TrainingRescue, folder: Path) -> DiagnosedRun:
    """Diagnose a run with the thresholds of the configuration."""
    return diagnose_own_run(folder, change_thresholds(dict(rescue.compose_config().thresholds)), "RUN")


def _diagnosis_to_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "kind": diagnosis.kind,
        "step": diagnosis.step,
        "confidence": diagnosis.confidence,
        "reason": diagnosis.reason,
        "try": render_suggestions(diagnosis.suggestions),
    }


def _list_attempts(rescue: TrainingRescue) -> list[Path]:
    """Return the folders of the runs of the baseline, the latest last."""
    return sorted(rescue.folder.glob("*_run-*"), key=_read_attempt_number)


def _read_attempt_number(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])


def _find_ended_run(rescue: TrainingRescue) -> Path | None:
    """Return the run of the baseline that an earlier command ended, also if it died right after."""
    for folder in reversed(_list_attempts(rescue)):
        with suppress(OSError, ValueError, LookupError):
            complete_record(folder)
            end = [entry for entry, _ in metrics_file.read_entries(folder / metrics_file.METRICS_FILE)][-1]
            if end["kind"] == "end" and end["status"] in MEASURED:
                return folder
    return None


def _run_baseline(rescue: TrainingRescue) -> Path:
    """Run the baseline and return the folder of the run.

    Raises:
        RunFailedError: If it failed.
        KeyboardInterrupt: If it was interrupted.
    """
    attempts = _list_attempts(rescue)
    if attempts:
        print_fitted(f"{attempts[-1].name} did not end, so the run starts again")
    number = _read_attempt_number(attempts[-1]) + 1 if attempts else 1
    folder = rescue.folder / f"{rescue.folder.name}_run-{number}"  # the last part names the run in MLflow
    result = run(rescue.compose_config(), folder=folder, overrides=rescue.overrides)
    gc.collect()
    torch.cuda.empty_cache()
    if result.status == "interrupted":
        raise KeyboardInterrupt(f"interrupted: {result.reason}")
    if result.status not in MEASURED:
        traceback = result.folder / TRACEBACK_FILE
        hint = f"; traceback: {traceback}" if traceback.exists() else ""
        raise RunFailedError(f"{result.status}: {result.reason}{hint}")
    return result.folder
