"""The rescue of our own training: preflight, diagnosis, prescription, sweep, confirmation, report."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from harness.evidence.confirm.from_study import ConfirmOptions
from harness.evidence.confirm.plan import check_enough_seeds
from harness.evidence.rescue.confirm_stage import CONFIRMATION, run_confirmation_stage
from harness.evidence.rescue.diagnosis_stages import run_diagnosis, run_preflight
from harness.evidence.rescue.prescription_stage import PRESCRIPTION, run_prescription
from harness.evidence.rescue.record import DIAGNOSIS, RescueRecord, StageResult
from harness.evidence.rescue.report_stage import REPORT, run_report_stage
from harness.evidence.rescue.request import TrainingRescue, read_training_rescue
from harness.evidence.rescue.stages import Rescue
from harness.evidence.rescue.sweep_stage import SWEEP, run_sweep_stage


def plan_training_rescue(
    overrides: Sequence[str], run: Path | None, folder: Path | None, budget_runs: int, options: ConfirmOptions
) -> Rescue:
    """Return the rescue of a configuration, or of a recorded run.

    Raises:
        ConfigError: If it cannot be run; nothing is written then.
    """
    check_enough_seeds(options.seeds, options.top)
    rescue = read_training_rescue(overrides, run, folder, budget_runs=budget_runs, top=options.top, seeds=options.seeds)
    own: dict[str, Callable[[TrainingRescue, RescueRecord], StageResult]] = {
        "preflight": run_preflight,
        DIAGNOSIS: run_diagnosis,
        PRESCRIPTION: run_prescription,
        SWEEP: run_sweep_stage,
    }
    study, storage = rescue.folder / "sweep", rescue.read_storage()
    runs = f"{budget_runs} whole run{'s' * (budget_runs > 1)}"
    return Rescue(
        stages={
            **{name: partial(stage, rescue) for name, stage in own.items()},
            CONFIRMATION: partial(run_confirmation_stage, study, options, storage),
            REPORT: partial(run_report_stage, study, storage, store=rescue.read_tracking_store()),
        },
        folder=rescue.folder,
        inputs=rescue.inputs,
        summary=f"at most {runs} for diagnosis and sweep, then {options.max_runs} for the confirmation",
        notices=rescue.notices,
    )
