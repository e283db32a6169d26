"""Everything that a report on a study reads: the study, the records of its trials, and the files of its folder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from harness import importers
from harness.core.digests import read_json
from harness.core.errors import ConfigError
from harness.core.formatting import objective_label
from harness.diagnosis.history import History
from harness.evidence.ablation.ablation import ABLATION_FOLDER
from harness.evidence.ablation.result import ABLATION_FILE
from harness.evidence.confirm.from_study import CONFIRM_FOLDER
from harness.evidence.confirm.result import CONFIRM_FILE
from harness.record.metrics_file import find_record, read_entries
from harness.record.trial_record import OWN_OBJECTIVE, Direction, name_curve
from harness.sweep.program_file import read_program
from harness.sweep.programs.rerun import find_rerun_options
from harness.sweep.results.summary import MEASURED, SweepSummary, TrialSummary, summarize_study
from harness.sweep.study.budget import Budget
from harness.sweep.study.recorded_study import open_recorded_study
from harness.sweep.study.trial_attrs import STUDY_SPEC

SETTINGS_FILE, PREFLIGHT_FILE = "sweep.yaml", "preflight.txt"
OWN_STORAGE = "study.journal"
"""Storage in the settings of a sweep whose study is in its folder."""


@dataclass(frozen=True)
class Curve:
    """Values of the objective during a trial by step, and by tokens if the program counts them."""

    steps: tuple[int, ...]
    tokens: tuple[float, ...] | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class StudySource:
    """A study and its folder. `confirmation` and `ablation` are the content of their files, None without one."""

    folder: Path
    settings: dict[str, Any]
    summary: SweepSummary
    program: str
    confirmation: dict[str, Any] | None
    ablation: dict[str, Any] | None
    preflight: str

    @property
    def name(self) -> str:
        return self.summary.study

    @property
    def objective(self) -> str:
        return self.summary.objectives[0]

    @property
    def direction(self) -> Direction:
        return self.summary.directions[0]

    @property
    def label(self) -> str:
        """The main objective in words, such as "val loss"."""
        return objective_label(self.objective)

    @cached_property
    def unit(self) -> str:
        """The unit of the main objective; empty if it is unknown, as for programs of others."""
        if self.objective != OWN_OBJECTIVE:
            return ""
        for trial in (self.summary.best_trial, self.summary.baseline, *self.summary.trials):
            history = self.read_history(trial) if trial else None
            if history is not None and history.facts.unit:
                return history.facts.unit
        return ""

    @cached_property
    def rerun_options(self) -> str | None:
        """The options that commands need to run the program with other seeds; None if it cannot be started again."""
        try:
            program = read_program(self.folder)
        except ConfigError:  # what needs the file says so
            return ""
        return find_rerun_options(self.program, program)

    def name_place(self, trial: TrialSummary) -> str:
        """Return what a user calls the trial, and every command takes."""
        return f"{self.name}/{trial.number}"

    def find_folder(self, trial: TrialSummary) -> Path:
        return self.folder / (trial.folder or str(trial.number))

    def read_history(self, trial: TrialSummary) -> History | None:
        """Return the curves of a trial, None if it left no record that can be read."""
        try:
            return importers.read_history(self.find_folder(trial))
        except (ValueError, OSError):
            return None

    def read_command(self, trial: TrialSummary) -> str:
        """Return the command that runs the trial again; empty if it is not recorded."""
        try:
            start = next((entry for entry, _ in read_entries(find_record(self.find_folder(trial)))), {})
        except (ValueError, OSError):
            return ""
        return str(start.get("tags", {}).get("command", ""))

    def read_curve(self, trial: TrialSummary) -> Curve | None:
        """Return the finite values of the main objective during a trial; None without a record or any value."""
        path = find_record(self.find_folder(trial))
        try:
            rows = [entry for entry, _ in read_entries(path) if entry["kind"] == "metrics"]
        except (ValueError, OSError):
            return None
        names = [name_curve(self.objective), *(["val/loss"] if self.direction == "minimize" else [])]
        for name in names:
            points = [(row["step"], row.get("tokens"), row["metrics"][name]) for row in rows if name in row["metrics"]]
            points = _drop_repeated(points)
            if points:
                steps, tokens, values = zip(*points, strict=True)
                return Curve(steps, None if None in tokens else tokens, values)
        return None


def _drop_repeated(points: Sequence[tuple[int, Any, float]]) -> list[tuple[int, Any, float]]:
    """Return finite points with increasing steps: after a rollback, the later ones count."""
    kept: list[tuple[int, Any, float]] = []
    for point in points:
        while kept and kept[-1][0] >= point[0]:
            kept.pop()
        kept += [point] if math.isfinite(point[2]) else []
    return kept


def load_study_source(folder: Path, storage: str | None = None) -> StudySource:
    """Read the study of the sweep in `folder`.

    Raises:
        ConfigError: If it is not the folder of a sweep, or one of its files is damaged.
    """
    settings = _read_settings(folder)
    recorded = str(settings.get("storage", OWN_STORAGE))
    url = storage or (None if recorded == OWN_STORAGE else recorded)
    study = open_recorded_study(folder, str(settings.get("study", folder.name)), url)
    n_trials = settings.get("n_trials")
    requested = n_trials if isinstance(n_trials, int) else len(study.get_trials(deepcopy=False))
    runs, tokens = (settings.get(name) for name in ("runs", "max_tokens"))
    budget = Budget(
        requested,
        runs=float(runs) if isinstance(runs, int | float) else None,
        max_tokens=tokens if isinstance(tokens, int) else None,
    )
    summary = summarize_study(study, budget, lambda values: "")
    spec = study.user_attrs.get(STUDY_SPEC, {})
    return StudySource(
        folder=folder,
        settings=settings,
        summary=summary,
        program=str(spec.get("program", "")) if isinstance(spec, dict) else "",
        confirmation=read_result_file(folder / CONFIRM_FOLDER / CONFIRM_FILE),
        ablation=read_result_file(folder / ABLATION_FOLDER / ABLATION_FILE),
        preflight=_read_text(folder / PREFLIGHT_FILE),
    )


def _read_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a sweep as its folder has them: command, budget, sampler, space, ..."""
    path = folder / SETTINGS_FILE
    try:
        settings = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"{path}: cannot be read ({problem}); name the folder of a sweep") from error
    if not isinstance(settings, dict):
        raise ConfigError(f"{path}: not the settings of a sweep; restore the file")
    return settings


def read_result_file(path: Path) -> dict[str, Any] | None:
    """Return the content of a confirm.json or an ablation.json, None if there is none.

    Raises:
        ConfigError: If it is damaged.
    """
    try:
        return read_json(path)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def select_drawn_trials(source: StudySource, count: int) -> list[TrialSummary]:
    """Return the baseline, the best trial, and up to `count` in all of the others with a result, evenly by number."""
    summary = source.summary
    first = {trial.number: trial for trial in (summary.baseline, summary.best_trial) if trial}
    others = [trial for trial in summary.trials if trial.status in MEASURED and trial.number not in first]
    room = min(count - len(first), len(others))
    return [*first.values(), *(others[index * len(others) // room] for index in range(room))]
