"""The stages of a rescue of our own training."""

from collections.abc import Mapping
from functools import partial

from harness.evidence.rescue.diagnosis_stages import DIAGNOSIS, run_diagnosis, run_preflight
from harness.evidence.rescue.prescription_stage import PRESCRIPTION, run_prescription
from harness.evidence.rescue.record import RescueRecord
from harness.evidence.rescue.request import TrainingRescue
from harness.evidence.rescue.stages import RunStage
from harness.evidence.rescue.sweep_stage import SWEEP, run_sweep_stage


def list_training_stages(rescue: TrainingRescue, record: RescueRecord) -> Mapping[str, RunStage]:
    """Return the stages in their order, by name."""
    stages = {
        "preflight": run_preflight,
        DIAGNOSIS: run_diagnosis,
        PRESCRIPTION: run_prescription,
        SWEEP: run_sweep_stage,
    }
    return {name: partial(stage, rescue, record) for name, stage in stages.items()}
