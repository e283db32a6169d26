"""A sweep that has been run, read back from its folder and its study."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.core.errors import ConfigError
from harness.record.run_lookup import find_run, is_study_folder
from harness.sweep.program_file import RecordedProgram, read_program
from harness.sweep.results.summary import (
    MEASURED,
    TrialSummary,
    find_baseline,
    find_best_trials,
    summarize_trials,
)
from harness.sweep.study.recorded_study import open_recorded_study
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import SEED_RUN, STUDY_SPEC
from harness.tracking.sweep_uploader import read_sweep_identity


@dataclass(frozen=True)
class SweptStudy:
    """A sweep that has been run. `storage` is the address of its database with credentials, None for a journal.

    `command` is that of the sweep as it was typed.
    """

    folder: Path
    storage: str | None
    spec: StudySpec
    program: RecordedProgram
    trials: tuple[TrialSummary, ...]
    store_uri: str
    experiment: str
    is_uploaded: bool
    command: str

    @property
    def name(self) -> str:
        return self.program.study

    @property
    def baseline(self) -> TrialSummary | None:
        """The trial of the current configuration, if the sweep ran it."""
        return find_baseline(self.trials)

    @cached_property
    def ranking(self) -> tuple[TrialSummary, ...]:
        """The completed trials, the best first; with several objectives the Pareto front, by the first objective."""
        if len(self.spec.objectives) > 1:
            return tuple(find_best_trials(self.trials))
        completed = [trial for trial in self.trials if trial.status == "completed" and trial.costs]
        return tuple(sorted(completed, key=lambda trial: (trial.costs[0], trial.number)))

    @property
    def n_measured(self) -> int:
        """Number of trials among which the best was chosen."""
        return sum(trial.status in MEASURED for trial in self.trials)


def load_swept_study(source: str, output_dir: Path, storage: str | None = None) -> SweptStudy:
    """Load the study that a user calls `source`: by name or folder.

    Args:
        storage: Address of the study's database, which is only needed if it has a password.

    Raises:
        ConfigError: If there is no such study, or it cannot be read.
    """
    folder = find_run(source, output_dir, "STUDY", takes_studies=True)
    if not is_study_folder(folder):
        raise ConfigError(f"STUDY: {source}: a run or a log; name a study, as `plateau list` shows them")
    folder = folder.absolute()
    program = read_program(folder)
    url = storage or program.storage
    study = open_recorded_study(folder, program.study, url)
    if any(SEED_RUN in trial.user_attrs for trial in study.get_trials(deepcopy=False)):
        raise ConfigError(
            f"STUDY: {source}: runs of configurations over seeds, not a sweep; name the sweep they are of"
        )
    identity: Mapping[str, Any] = read_sweep_identity(folder)
    try:
        spec = StudySpec(**study.user_attrs[STUDY_SPEC])
    except (KeyError, TypeError) as error:
        raise ConfigError(
            f"STUDY: {source}: its settings are not as this version stores them ({error}); run a new study"
        ) from error
    return SweptStudy(
        folder=folder,
        storage=url,
        spec=spec,
        program=program,
        trials=tuple(summarize_trials(study)),
        store_uri=identity["uri"],
        experiment=identity["experiment"],
        is_uploaded=(folder / "mlflow.json").is_file(),
        command=identity["tags"].get("command", ""),
    )
