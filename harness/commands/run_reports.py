"""Diagnose runs and print the reports, for the commands that read curves."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from harness.core.errors import ConfigError, UntrustedError
from harness.core.events import Diagnosis
from harness.core.terminal import find_width, fit_record, print_error
from harness.diagnosis import diagnose
from harness.diagnosis.assessment import assess
from harness.diagnosis.dialects import Dialect, guess_dialect
from harness.diagnosis.expectations import Expectation, parse_expectation
from harness.diagnosis.given_facts import GivenFacts, add_given_facts
from harness.diagnosis.history import History
from harness.diagnosis.render import RunReport, describe_expectations, describe_history, format_diagnoses
from harness.diagnosis.thresholds import Thresholds
from harness.record import metrics_file
from harness.record.trial_record import is_foreign_folder


@dataclass(frozen=True)
class Request:
    """Options that hold for each run."""

    thresholds: Thresholds
    expectations: Sequence[Expectation]
    given: GivenFacts
    dialect: Dialect | None  # None: that of the program that wrote the log
    failing_kinds: frozenset[str]


def complete_facts(history: History, request: Request, is_quiet: bool = False) -> None:
    """Add the facts that the user gave, and print notes on them and on the reading.

    Raises:
        ConfigError: If one contradicts the run.
    """
    try:
        notes = add_given_facts(history, request.given)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    for note in () if is_quiet else (*history.facts.notes, *(f"{history.facts.name}: {note}" for note in notes)):
        print_error(f"note: {note}")


def report_run(history: History, path: Path | None, request: Request) -> RunReport:
    """Diagnose a run; `path` is that of its folder or log."""
    diagnoses = diagnose(history, request.thresholds)
    return RunReport(
        history,
        drop_refused_suggestions(path, diagnoses),
        assess(history, request.thresholds, diagnoses),
        [one.evaluate(history) for one in (*map(parse_expectation, history.facts.expect), *request.expectations)],
        request.dialect or guess_dialect(history.facts),
    )


def print_report(report: RunReport) -> None:
    """Print what was read, its diagnoses, the slopes of its losses, and the results of all expectations."""
    console = Console(soft_wrap=True, highlight=False)
    read = Text("\n".join(map(fit_record, describe_history(report.history))))
    console.print(Text(report.name, style="bold"), read, sep="\n")
    if report.diagnoses:
        console.print(f"diagnosis: {len(report.diagnoses)} found, root causes first")
    width = find_width() or sys.maxsize  # elsewhere than on a terminal, a reason is one line, as a slope is
    for diagnosis in report.diagnoses:
        head, *lines = format_diagnoses([diagnosis], width, report.history, report.dialect)
        console.print(Text(head, style="bold"), *map(Text, lines), sep="\n")
    judged = report.assessment.lines(has_diagnoses=bool(report.diagnoses))
    lines = [*judged, *describe_expectations(report.expectations)]
    console.print(*map(fit_record, lines), "", sep="\n", markup=False)


def drop_refused_suggestions(path: Path | None, diagnoses: Sequence[Diagnosis]) -> Sequence[Diagnosis]:
    """Drop suggestions that our run at `path` would refuse; those for other logs assume the default configuration."""
    folder = path if path is None or path.is_dir() else path.parent
    has_config = folder and (folder / metrics_file.METRICS_FILE).is_file() and (folder / "config.yaml").is_file()
    if not folder or not has_config or not any(diagnosis.suggestions for diagnosis in diagnoses):
        return diagnoses
    if is_foreign_folder(folder):
        return diagnoses
    try:
        from harness.run.reproduce import keep_accepted_suggestions  # loads Hydra, which logs do without
    except ModuleNotFoundError:
        print("note: suggestions are not checked against the run's configuration, which needs Hydra", file=sys.stderr)
        return diagnoses
    try:
        return keep_accepted_suggestions(folder, diagnoses)
    except UntrustedError as error:  # the curves of somebody else's run can be judged without their code
        print(f"note: suggestions are not checked against the run's configuration: {error}", file=sys.stderr)
        return diagnoses
