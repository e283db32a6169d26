"""The numbers of a study that several sections of its report use."""

from dataclasses import dataclass, field

from harness.evidence.charts.figure_data import Role
from harness.evidence.comparing.setting_differences import is_seed_key
from harness.evidence.report.document import Bare, Name, Text
from harness.evidence.report.numbers import Number, NumberBook, Reading, Style
from harness.evidence.report.phrases import DASH, make_id
from harness.evidence.report.study_source import StudySource
from harness.record.trial_record import OWN_OBJECTIVE
from harness.sweep.results.summary import TrialSummary


@dataclass
class StudyNumbers:
    """The source of a report on a study, its numbers so far, and the price of an hour, None if it is unknown."""

    source: StudySource
    price: float | None = None
    book: NumberBook = field(default_factory=NumberBook)

    def value_of(self, trial: TrialSummary, index: int = 0) -> Number:
        """Return the value of an objective in a trial, the main one by default; of a pruned one, that at its end."""
        source = self.source
        reading = Reading(source.name_place(trial), source.summary.objectives[index], trial.best_step)
        value = trial.values[index] if len(trial.values) > index else None
        id = make_id(f"trial {trial.number}", "value", *([f"objective {index + 1}"] if index else []))
        return self.book.read(id, value, "" if index else source.unit, reading, "loss")

    def tokens_of(self, trial: TrialSummary) -> Number:
        reading = Reading(self.source.name_place(trial), "tokens")
        value = trial.tokens or None  # other programs do not say
        return self.book.read(make_id(f"trial {trial.number}", "tokens"), value, "tokens", reading, "count")

    def seconds_of(self, trial: TrialSummary) -> Number:
        reading = Reading(self.source.name_place(trial), "seconds")
        return self.book.read(make_id(f"trial {trial.number}", "seconds"), trial.seconds, "s", reading, "duration")

    def error_of(self, trial: TrialSummary) -> Number | None:
        """Return the standard error of the value over validation elements; None if the program records none."""
        history = self.source.read_history(trial) if self.source.objective == OWN_OBJECTIVE else None
        errors = history["val/loss_se"] if history is not None else None
        if errors is None or trial.best_step is None or trial.best_step not in errors.steps:
            return None
        value = float(errors.values[list(errors.steps).index(trial.best_step)])
        reading = Reading(self.source.name_place(trial), "val/loss_se", trial.best_step)
        return self.book.read(make_id(f"trial {trial.number}", "error"), value, self.source.unit, reading, "error")

    def read_study(self, name: str, value: float | int | None, metric: str, unit: str = "",
                   style: Style = "whole") -> Number:  # fmt: skip
        """Return a number that the study has as a whole."""
        return self.book.read(name, value, unit, Reading(f"study {self.source.name}", metric), style)

    @property
    def n_measured(self) -> Number:
        return self.read_study(
            "study.measured", self.source.summary.n_measured, "trials that are completed, paused, pruned or diverged"
        )

    def n_runs_of(self, trial: TrialSummary) -> Number:
        """Return how many completed trials have the values of a trial, whatever their seed."""
        same = [
            one
            for one in self.source.summary.trials
            if one.status == "completed" and drop_seed(one) == drop_seed(trial)
        ]
        reading = Reading(f"study {self.source.name}", f"completed trials with the values of trial {trial.number}")
        return self.book.read(make_id(f"trial {trial.number}", "runs"), len(same), "", reading, "whole")

    def find_role(self, trial: TrialSummary) -> Role:
        """Return the part that a trial plays in figures; the best one may be the baseline."""
        summary = self.source.summary
        if is_same_trial(trial, summary.best_trial):
            return "best"
        if is_same_trial(trial, summary.baseline):
            return "baseline"
        roles: dict[str, Role] = {"paused": "paused", "pruned": "pruned", "diverged": "diverged"}
        return roles.get(trial.status, "trial")

    def label_trial(self, trial: TrialSummary) -> str:
        """Return the name of a trial for a figure, such as "best: trial 7"."""
        name = name_trial(trial, self.source).text
        return f"best: {name}" if is_same_trial(trial, self.source.summary.best_trial) else name

    @property
    def axis_label(self) -> str:
        """The objective and its unit, for an axis."""
        source = self.source
        return f"{source.label} ({source.unit})" if source.unit else source.label

    @property
    def head(self) -> Text:
        """The objective and its unit, for the header of a column."""
        source = self.source
        return (Name(source.label), " (", Name(source.unit), ")") if source.unit else (Name(source.label),)


def drop_seed(trial: TrialSummary) -> dict[str, object]:
    """Return the values of a trial without its seed."""
    return {key: value for key, value in trial.params.items() if not is_seed_key(key)}


def name_trial(trial: TrialSummary, source: StudySource) -> Name:
    """Return "baseline" or "trial 7"."""
    return Name("baseline" if is_same_trial(trial, source.summary.baseline) else f"trial {trial.number}")


def is_same_trial(trial: TrialSummary | None, other: TrialSummary | None) -> bool:
    return trial is not None and other is not None and trial.number == other.number


def cell_of(number: Number) -> Text:
    """Return a cell with a number without its unit, or a dash for an unknown one."""
    return DASH if number.value is None else (Bare(number),)
