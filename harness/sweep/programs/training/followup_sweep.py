"""The sweep, or the longer run, that follows from the diagnoses of one of our runs."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from harness.config.alternatives import find_replaced_keys
from harness.config.compose import list_choices
from harness.config.overrides import format_value, read_override_key
from harness.core.errors import ConfigError
from harness.core.events import Diagnosis
from harness.core.paths import project_dir
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.history import History
from harness.diagnosis.prescription import Prescription, prescribe
from harness.diagnosis.thresholds import Thresholds
from harness.importers.programs import native
from harness.record import metrics_file
from harness.record.lr_range_file import RangeTest, add_data_digest, find_range_test
from harness.record.trial_record import check_own_run
from harness.run.reproduce import keep_accepted_suggestions, reproduce_overrides
from harness.sweep.programs.training.usual_lrs import read_usual_ranges


@dataclass(frozen=True)
class DiagnosedRun:
    """One of our runs and what was found in it.

    `params` are its settings by dotted key. `conclusion` is what holds if there are no diagnoses. `data_params` are the
    settings that a range test of the same configuration has.
    """

    folder: Path
    history: History
    diagnoses: Sequence[Diagnosis]
    conclusion: str
    params: Mapping[str, str]
    data_params: Mapping[str, str]

    @property
    def name(self) -> str:
        return self.history.facts.name or self.folder.name

    @property
    def output_dir(self) -> Path:
        """The folder of the runs beside it, which has the range tests."""
        return project_dir() / self.params.get("output_dir", "outputs")

    def find_range_test(self) -> RangeTest | None:
        return find_range_test(self.output_dir, self.data_params)

    def prescribe(self) -> Prescription:
        """Return what to try next, around the best LR of a range test if there is one."""
        test = self.find_range_test()
        overrides = reproduce_overrides(self.folder)
        usual_lrs = read_usual_ranges().get(list_choices(overrides).get("optimizer", ""))
        typed = {read_override_key(override) for override in overrides} - {"optimizer.lr"}
        return prescribe(
            self.history,
            self.diagnoses,
            self.params,
            test.band if test else None,
            usual_lrs,
            may_switch=not any(f"{key}.".startswith("optimizer.") for key in typed),  # they are for that optimizer only
        )

    def describe_diagnoses(self) -> Iterator[str]:
        """Yield a line for each diagnosis, or one with what holds without any."""
        for diagnosis in self.diagnoses:
            yield f"{diagnosis.kind} ({diagnosis.confidence:.0%}): {diagnosis.reason}"
        if not self.diagnoses:
            yield f"{self.conclusion}; a sweep of the LR shows whether there is room for improvement"


def check_diagnosable(folder: Path, key: str) -> None:
    """Check that `folder` has the record of one of our own runs.

    Raises:
        ConfigError: If it does not; the message begins with `key`.
    """
    check_own_run(folder, key)
    if not (folder / metrics_file.METRICS_FILE).is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(
            f"{key}: {folder} has no {metrics_file.METRICS_FILE} and config.yaml of a run; try diagnose for other logs"
        )


def diagnose_own_run(folder: Path, thresholds: Thresholds, key: str) -> DiagnosedRun:
    """Diagnose the run in `folder`, with suggestions that its configuration accepts.

    Raises:
        ConfigError: If it is not one of our runs, or its record is damaged; the message begins with `key`.
    """
    check_diagnosable(folder, key)
    record = folder / metrics_file.METRICS_FILE
    try:
        history, start = native.read_native(record), native.read_start_entry(record)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from error
    return DiagnosedRun(
        folder=folder,
        history=history,
        diagnoses=keep_accepted_suggestions(folder, diagnose(history, thresholds)),
        conclusion=assess(history, thresholds).conclusion,
        params=start["params"],
        data_params=add_data_digest(start["params"], start["dataset"]),
    )


def list_followup_overrides(prescription: Prescription, overrides: Sequence[str]) -> list[str]:
    """Return `overrides`, which reproduce the run, with the settings and the ranges of the prescription.

    In a sweep, the run's own values of what is searched are those of trial 0.
    """
    settings = [part.override for part in prescription.settings]
    kept, _ = _split_overrides(overrides, [part.key for part in prescription.settings])
    if not prescription.ranges:
        return [*kept, *settings]
    keys = [part.key for part in prescription.ranges]
    kept, own = _split_overrides([*kept, *settings], [*keys, *(["optimizer.lr"] if "optimizer" in keys else [])])
    kept = [override for override in kept if not override.startswith("sweeps=")]
    return [
        *kept,
        f"sweeps={prescription.sweeps}",
        *(part.override for part in prescription.ranges),
        *_set_baseline(own),
    ]


def list_file_sweep_overrides(overrides: Sequence[str], searched: Collection[str]) -> list[str]:
    """Return the overrides of a sweep over the keys that its file searches, with those of the run in trial 0.

    On the command line, they would be fixed.
    """
    kept, own = _split_overrides(overrides, [key for key in searched if "." in key])
    return [*kept, *_set_baseline(own)]


def _split_overrides(overrides: Sequence[str], keys: Collection[str]) -> tuple[list[str], list[str]]:
    """Return the overrides without and with one of the keys, or what these replace."""
    replaced = {*keys, *find_replaced_keys(dict.fromkeys(keys, ""))}
    own = [override for override in overrides if read_override_key(override) in replaced]
    return [override for override in overrides if override not in own], own


def _set_baseline(own: Sequence[str]) -> list[str]:
    return [f"sweep.baseline_values={format_value(list(own))}"] if own else []


@dataclass(frozen=True)
class RunCost:
    """Number and median duration of a run's steps and evaluations."""

    steps: int
    evals: int
    seconds_per_step: float
    seconds_per_eval: float

    @property
    def total_seconds(self) -> float:
        return self.steps * self.seconds_per_step + self.evals * self.seconds_per_eval


def estimate_run_cost(path: Path, history: History) -> RunCost | None:
    """Estimate the cost of a whole run like the recorded one, without the steps it was resumed from.

    None if the recorded run ended before its first evaluation or was not measured.
    """
    first = native.read_start_entry(path)["effective"]["first_step"]
    end = next((entry for entry, _ in metrics_file.read_entries(path) if entry["kind"] == "end"), None)
    steps_per_second, evals = history["perf/steps_per_second"].values, len(history["val/loss"])
    if end is None or not len(steps_per_second) or not evals:
        return None
    steps, done = (history.facts.total_steps or end["step"]) - first, end["step"] - first
    seconds_per_step = median(1 / steps_per_second)
    seconds_per_eval = max(0.0, end["seconds"] - seconds_per_step * done) / evals
    return RunCost(steps, round(evals * steps / done), seconds_per_step, seconds_per_eval)
