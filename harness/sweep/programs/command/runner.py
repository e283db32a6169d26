"""Trials that run a command line."""

import json
import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from optuna.trial import Trial

from harness.core.credentials import hide_credentials_in_text, hide_secret_words
from harness.core.events import Status
from harness.core.files import FileLock, write_atomically
from harness.core.shortage import ShortageError
from harness.importers.named_values.curves import CurvePoint
from harness.importers.named_values.metric_lookup import MetricError
from harness.record.trial_record import OUTPUT_LOG, TrialEnd, TrialRecord, TrialStart
from harness.run.provenance import describe_environment
from harness.sweep.programs.command.failure import describe_failure, find_disk_shortage
from harness.sweep.programs.command.metrics import (
    MetricReader,
    MetricSpec,
    MetricValue,
    pick_point,
    trial_environment,
)
from harness.sweep.programs.command.old_files import OldFiles
from harness.sweep.programs.command.process import ProgramExit, run_program
from harness.sweep.programs.command.reports import REPORTED, ReportReader
from harness.sweep.programs.command.shared_files import SharedFilesCheck
from harness.sweep.programs.command.template import CommandTemplate
from harness.sweep.programs.command.torchrun import choose_free_port
from harness.sweep.programs.trial_start import describe_trial_start
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.trial_attrs import TrialResult
from harness.sweep.trial_runner import STOPPED, Reporter, TrialJob

METRIC_FILE = "metric.json"
"""In the folder of a sweep: the name of its metric, if the user named none, and a note on its choice."""
READING_SHARE = 0.1  # of the time that a program runs, for reading what it writes


class CommandRunner:
    """Runs a command for each trial and reads its metric; with two objectives the second is its result on test data."""

    def __init__(self, spec: StudySpec, program: Mapping[str, Any]) -> None:
        metric = program["metric"]
        self._template = CommandTemplate.from_json(program["template"])
        self._metric = MetricSpec(**{**metric, "sources": tuple(metric["sources"])})
        self._cwd, self._grace_seconds = Path.cwd(), float(program["grace_seconds"])
        self._trial_seconds: float | None = program["trial_seconds"]
        self._spec, self._environment = spec, describe_environment(self._cwd)
        self._shared_files = SharedFilesCheck(self._cwd, self._metric.sources)

    def extend_trial(self, trial: Trial) -> None:
        """Do nothing: a command has no function of the user's."""

    def run_trial(self, job: TrialJob, reporter: Reporter, should_stop: Callable[[], bool]) -> TrialResult:
        """Run the program of a trial, and end it if it is pruned.

        Raises:
            ConfigError: If the program cannot be started.
            ShortageError: If it failed because the disk is full.
        """
        started_at = time.monotonic()
        words, environment = self._template.render(job.values, job.folder)
        sources = self._template.fill_sources(self._metric.sources, job.folder)
        old_files = OldFiles(sources)
        reports = ReportReader(job.folder)
        environment |= trial_environment(sources, job.folder, environment) | reports.environment
        environment |= choose_free_port(words, environment)
        metric = MetricSpec(self._find_metric_name(job), sources, self._metric.pick, self._metric.direction)
        reader = MetricReader(metric, job.folder / OUTPUT_LOG, environment)
        record = TrialRecord(job.folder, self._describe_start(job, words))
        try:
            watcher = _OutputWatcher(
                reader,
                reports,
                old_files,
                self._spec.objectives[0],
                record,
                reporter,
                should_stop,
                grace_seconds=self._grace_seconds,
                trial_seconds=self._trial_seconds,
            )
            self._shared_files.start_trial()
            program_exit = run_program(
                words,
                environment,
                self._cwd,
                job.folder / OUTPUT_LOG,
                should_end=watcher.should_end,
                grace_seconds=self._grace_seconds,
            )
            has_result = not program_exit.was_ended and program_exit.code == 0
            watcher.read_new_values(is_final=has_result)
            if has_result:
                self._shared_files.end_trial(job.number, job.folder.parent)
            if program_exit.n_left:
                record.add_notice(f"processes that the program left behind and that were ended: {program_exit.n_left}")
            result = self._describe_result(job, program_exit, watcher, reader, time.monotonic() - started_at)
            values = dict(zip(self._spec.objectives, result.values, strict=False))
            record.end(TrialEnd(result.status, result.reason, result.seconds, values))
            return result
        except Exception as error:
            status: Status = "interrupted" if isinstance(error, ShortageError) else "failed"
            record.end(TrialEnd(status, str(error), time.monotonic() - started_at))
            raise

    def _find_metric_name(self, job: TrialJob) -> str | None:
        """Return the name of the metric; if the user named none, that which an earlier trial was read by, if any."""
        chosen = read_chosen_metric(job.folder.parent).get("name")
        return self._metric.metric or (None if chosen == REPORTED else chosen)

    def _check_metric(self, job: TrialJob, found: MetricValue) -> None:
        """Check that all trials are read by one name, where the user named none.

        Raises:
            MetricError: If an earlier trial was read by another one.
        """
        if self._metric.metric is not None:
            return
        path = job.folder.parent / METRIC_FILE
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                write_atomically(path, json.dumps({"name": found.name, "note": found.note}))
        first, name = read_chosen_metric(path.parent).get("name", found.name), found.name
        if first != name:
            if REPORTED in (first, name):
                raise MetricError("--metric: some trials call report() and others do not; add --metric NAME")
            raise MetricError(f"--metric: {name} was found, but {first} in earlier trials; add --metric {first}")

    def _describe_start(self, job: TrialJob, words: Sequence[str]) -> TrialStart:
        command = shlex.join(hide_secret_words(words))
        searched = {key: str(value) for key, value in job.values.items()}
        params = {**self._template.settings, **searched}
        return describe_trial_start(self._spec, job, params, command, self._environment)

    def _describe_result(
        self, job: TrialJob, program_exit: ProgramExit, watcher: "_OutputWatcher", reader: MetricReader, seconds: float
    ) -> TrialResult:
        """Return how a trial ended whose program has ended."""
        objective, *test_metric = self._spec.objectives
        done, last = watcher.reporter.fraction_done, watcher.last_point
        if (program_exit.was_ended or watcher.reports.has_raised) and watcher.is_pruned and last:
            reason = f"{objective} {last.value:.4g} after {done:.0%} of the run"
            return TrialResult("pruned", reason, seconds=seconds, fraction_done=done, folder=job.folder.name)
        if program_exit.was_ended and watcher.is_overdue:
            reason = f"ran longer than --trial-seconds {self._trial_seconds:g}"
            return TrialResult("failed", reason, seconds=seconds, fraction_done=done, folder=job.folder.name)
        if program_exit.was_ended:
            return TrialResult("interrupted", STOPPED, seconds=seconds, fraction_done=done, folder=job.folder.name)
        if shortage := find_disk_shortage(program_exit, job.folder):
            raise ShortageError(shortage)
        if program_exit.code:
            reason = describe_failure(program_exit, job.folder / OUTPUT_LOG) + self._advise_baseline(job, program_exit)
            has_diverged = last is not None and not math.isfinite(last.value)
            status: Status = "diverged" if has_diverged else "failed"
            return TrialResult(status, reason, seconds=seconds, fraction_done=done, folder=job.folder.name)
        try:
            found = self._read_final_value(watcher, reader)
            self._check_metric(job, found)
            values = [(found.name, found.value)]
            if math.isfinite(found.value):
                values += [(name, reader.read_test_value(name, found)) for name in test_metric]
        except ValueError as error:
            reason = hide_credentials_in_text(str(error))
            return TrialResult("failed", reason, seconds=seconds, folder=job.folder.name, ends_sweep=True)
        infinite = [f"{name} is {value}" for name, value in values if not math.isfinite(value)]
        return TrialResult(
            status="diverged" if infinite else "completed",
            reason=", ".join(infinite),
            values=tuple(value for _, value in values),
            best_step=found.step,
            seconds=seconds,
            fraction_done=1.0,
            folder=job.folder.name,
        )

    def _advise_baseline(self, job: TrialJob, program_exit: ProgramExit) -> str:
        """Return what to do if the program may have no defaults for what is searched; empty for other failures."""
        if job.number or job.values or program_exit.code < 0:
            return ""
        key = next(iter(self._template.ranges))
        return f"; --baseline '{key}=VALUE' gives trial 0 values, --no-baseline leaves it out"

    def _read_final_value(self, watcher: "_OutputWatcher", reader: MetricReader) -> MetricValue:
        """Return the value of the objective; it is a reported one if no metric or file is named.

        Raises:
            ValueError: If there is none.
        """
        reports = watcher.reports
        if not len(reports.curve) or self._metric.metric is not None or self._metric.sources:
            if problem := watcher.old_files.describe_remains():
                raise ValueError(problem)
            return reader.read_final_value()
        point = pick_point(reports.curve, self._metric.pick, self._metric.direction)
        return MetricValue(point.value, point.step, REPORTED)


def read_chosen_metric(folder: Path) -> dict[str, str]:
    """Return name of the metric that the trials of a sweep are read by, and a note on it; empty before it is chosen."""
    try:
        return json.loads((folder / METRIC_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return {}


class _OutputWatcher:
    """Reads what a running program writes: its curves go to the record of the trial, its metric to the study.

    What it reports takes the place of the metric in its output.
    """

    def __init__(
        self,
        reader: MetricReader,
        reports: ReportReader,
        old_files: OldFiles,
        objective: str,
        record: TrialRecord,
        reporter: Reporter,
        should_stop: Callable[[], bool],
        *,
        grace_seconds: float,
        trial_seconds: float | None,
    ) -> None:
        self._reader, self.reports, self.old_files, self._objective = reader, reports, old_files, objective
        self._record, self.reporter, self._should_stop = record, reporter, should_stop
        self._grace_seconds = grace_seconds
        self._read_at = 0.0
        self._deadline = math.inf if trial_seconds is None else time.monotonic() + trial_seconds
        self.is_pruned = False
        self.is_overdue = False
        self.last_point: CurvePoint | None = None

    def should_end(self) -> bool:
        """Return whether the program is to end: because it is pruned, has run too long, or the sweep stops."""
        if self._should_stop():
            return True
        if time.monotonic() >= self._deadline:
            self.is_overdue = True
            return True
        started = time.monotonic()
        if started >= self._read_at:
            self.read_new_values()
            taken = time.monotonic() - started
            self._read_at = started + taken / READING_SHARE
        return self.is_pruned and self.reports.end_program(self._grace_seconds)

    def read_new_values(self, is_final: bool = False) -> None:
        """Record and report what the program has written since the last call; all of it if that is final."""
        reported = self.reports.read_new_points()
        for point in reported:
            self._record.add_metrics(point.step, {self._objective: point.value}, estimate_total_steps(point))
        self._report_points(reported)
        if self.old_files.describe_remains():
            return
        with suppress(ValueError):  # a file that is being written; the final value is read again and raises it
            self._record_curves(is_final)
            if not len(self.reports.curve):
                self._report_points(self._reader.read_new_points(is_final))

    def _report_points(self, points: Sequence[CurvePoint]) -> None:
        was_pruned = self.is_pruned
        for point in points:
            self.last_point = point
            advice = self.reporter.report_step(point.value, point.step, estimate_total_steps(point))
            self.is_pruned |= advice == "prune"
        if not was_pruned and self.reporter.fraction_done >= 1:
            self.is_pruned = False  # it has reached its end before it was read

    def _record_curves(self, is_final: bool) -> None:
        rows: dict[int, dict[str, float]] = {}
        totals: dict[int, int] = {}
        for name, points in self._reader.read_new_curves(is_final).items():
            if name == self._objective and len(self.reports.curve):
                continue  # it has been reported
            for point in points:
                rows.setdefault(point.step, {})[name] = point.value
                if total := estimate_total_steps(point):
                    totals[point.step] = total
        for step in sorted(rows):
            self._record.add_metrics(step, rows[step], totals.get(step))


def estimate_total_steps(point: CurvePoint) -> int | None:
    """Return the number of steps of the run if the program has said which share of it a point is at, else None."""
    return max(point.step, round(point.step / point.share)) if point.share and point.step > 0 else None
