"""The fourth stage of a rescue: the sweep, whose trial 0 is the diagnosed run."""

import math
import os
import shlex
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.credentials import hide_credentials
from harness.core.files import write_folder_atomically
from harness.core.formatting import format_count, format_number
from harness.core.paths import run_command
from harness.evidence.confirm.from_study import ConfirmOptions
from harness.evidence.rescue.confirm_stage import format_confirm_command
from harness.evidence.rescue.diagnosis_stages import read_findings
from harness.evidence.rescue.prescription_stage import PRESCRIPTION
from harness.evidence.rescue.record import DIAGNOSIS, RescueRecord, StageResult
from harness.evidence.rescue.request import TrainingRescue
from harness.record.metrics_file import METRICS_FILE, encode_entry, read_entries
from harness.record.trial_record import OWN_OBJECTIVE
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.programs.training.request import TrainingRequest, compose_sweep
from harness.sweep.programs.training.sweep import prepare_sweep
from harness.sweep.results.summary import SweepSummary, TrialSummary
from harness.sweep.study.pruning import TrialReporter
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import BASELINE, SWEEP_ID, TrialResult
from harness.sweep.sweeper import run_study
from harness.tracking.run_names import STUDY_TAG
from harness.tracking.run_uploader import SWEEP_TAG

SWEEP = "sweep"
MLFLOW_FILES = "mlflow.*"  # say where a run was uploaded to


def run_sweep_stage(rescue: TrainingRescue, record: RescueRecord) -> StageResult:
    """Run the prescribed sweep, or continue it.

    Raises:
        RunFailedError: If it failed.
        KeyboardInterrupt: If it was interrupted.
    """
    silence_optuna()
    recorded = record.get_details(PRESCRIPTION)["overrides"]
    request, notes = prepare_sweep(*compose_sweep(_restore_credentials(recorded, rescue)))
    request = replace(request, command=shlex.join([*run_command(), "-m", *recorded]))
    if not check_existing_study(request) and rescue.run is None:
        adopt_as_baseline(request, Path(record.get_details(DIAGNOSIS)["run"]))
    outcome = run_study(request, findings=read_findings(rescue.folder), notes=notes)
    if outcome.end.status == "interrupted":
        raise KeyboardInterrupt(f"interrupted: {outcome.end.reason}")
    outcome.end.raise_if_not_completed()
    summary = outcome.summary
    baseline, best = summary.baseline, summary.best_trial
    details = {
        "folder": str(request.folder),
        "study": request.study_name,
        "n_measured": summary.n_measured,
        "tokens": summary.tokens,
        "baseline": _trial_to_json(baseline),
        "best": _trial_to_json(best),
    }
    found = f"{summary.n_measured} trials, {format_count(summary.tokens)} tokens"
    compared = "" if best is None else f"; {_compare_with_baseline(summary, best)}"
    options = ConfirmOptions(top=rescue.top, seeds=rescue.seeds)
    return StageResult(f"{found}{compared}", details, format_confirm_command(request.folder, options))


def _restore_credentials(recorded: Sequence[str], rescue: TrainingRescue) -> list[str]:
    """Return overrides of the record with the credentials that this command was given."""
    given = {hide_credentials(one): one for one in (*rescue.overrides, *rescue.sweep_overrides)}
    return [given.get(override, override) for override in recorded]


def _trial_to_json(trial: TrialSummary | None) -> dict[str, Any] | None:
    if trial is None:
        return None
    value = trial.values[0] if trial.values and math.isfinite(trial.values[0]) else None
    return {"number": trial.number, "status": trial.status, "value": value, "values": dict(trial.params)}


def _compare_with_baseline(summary: SweepSummary, best: TrialSummary) -> str:
    baseline = summary.baseline
    loss = f"best validation loss {format_number(best.values[0])} in trial {best.number}"
    if baseline is None or not baseline.values:
        return f"{loss}; the baseline has none"
    if best is baseline:
        return f"{loss}, which is the baseline"
    return f"{loss}, {format_number(baseline.values[0])} with the baseline; one seed each shows little"


def adopt_as_baseline(request: TrainingRequest, run: Path) -> None:
    """Create the study with the recorded `run` of the baseline as its trial 0.

    The trial has a copy of the run's folder. If the process dies in between, the sweep completes or repeats trial 0.
    """
    queue = open_study(request)
    queue.set_budget(request.budget)
    trial = queue.claim_trial()
    if trial is None:
        return
    assert BASELINE in trial.user_attrs, "the baseline is enqueued first"
    folder = request.folder / str(trial.number)
    tags = {SWEEP_TAG: str(queue.study.user_attrs[SWEEP_ID]), STUDY_TAG: request.study_name}
    write_folder_atomically(folder, lambda draft: _copy_run(run, draft, tags))
    reporter = TrialReporter(trial, request.spec.warmup_share)
    entries = [entry for entry, _ in read_entries(folder / METRICS_FILE)]
    start, end = entries[0], entries[-1]
    first = start["effective"]["first_step"]
    length = max(1, start["total_steps"] - first)
    for entry in entries:
        if entry["kind"] == "metrics" and "val/loss" in entry["metrics"]:
            reporter.report_share(entry["metrics"]["val/loss"], (entry["step"] - first) / length)
    queue.finish_trial(trial, TrialResult(
        status=end["status"],
        reason=end["reason"],
        values=(float(end[OWN_OBJECTIVE]),),
        best_step=end["best_step"],
        tokens=end["tokens"],
        seconds=end["seconds"],
        fraction_done=(end["step"] - first) / length,
        folder=folder.name,
        threads=start["effective"]["threads"],
        device=start["effective"]["device"],
    ))  # fmt: skip


def _copy_run(run: Path, draft: Path, tags: dict[str, str]) -> None:
    """Copy the folder of a run for a trial; large files are linked, so that they take no space."""
    shutil.copytree(
        run, draft, copy_function=_link_or_copy, ignore=shutil.ignore_patterns(MLFLOW_FILES), dirs_exist_ok=True
    )
    entries = [entry for entry, _ in read_entries(draft / METRICS_FILE)]
    entries[0] = {**entries[0], "tags": {**entries[0]["tags"], **tags}, "name": "0", "id": uuid.uuid4().hex}
    (draft / METRICS_FILE).unlink()
    (draft / METRICS_FILE).write_bytes(b"".join(map(encode_entry, entries)))


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # the file system has no links
        shutil.copy2(source, target)
