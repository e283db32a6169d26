"""The start of the record of a trial that another program runs."""

from collections.abc import Mapping, Sequence

from harness.record.trial_record import TrialStart
from harness.sweep.study.spec import StudySpec
from harness.sweep.trial_runner import TrialJob
from harness.tracking.run_names import STUDY_TAG
from harness.tracking.run_uploader import SWEEP_TAG


def describe_trial_start(
    spec: StudySpec,
    job: TrialJob,
    params: Mapping[str, str],
    command: str,
    environment: Mapping[str, str],
    overrides: Sequence[str] = (),
) -> TrialStart:
    """Return the start of a trial with all its settings `params`, which `command` runs in `environment`."""
    return TrialStart(
        name=str(job.number),
        params=params,
        searched=job.values,
        objectives=dict(zip(spec.objectives, spec.directions, strict=True)),
        tags={**environment, "command": command, SWEEP_TAG: job.sweep_id, STUDY_TAG: job.study_name, **job.tags},
        overrides=overrides,
    )
