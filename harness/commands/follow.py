"""Follow a log while it grows: print each finding once, and the report at the end."""

import time
from dataclasses import replace

from harness.commands.run_reports import Request, complete_facts, drop_refused_suggestions, report_run
from harness.core.errors import ConfigError
from harness.core.events import Diagnosis
from harness.core.signals import stop_on_signals
from harness.core.terminal import print_error, print_fitted
from harness.diagnosis.assessment import assess
from harness.diagnosis.expectations import parse_expectation
from harness.diagnosis.history import History
from harness.diagnosis.live import LiveDiagnosis, format_new_diagnosis
from harness.diagnosis.render import RunReport, describe_length, describe_losses
from harness.importers.sources.growing import GrowingLog

INTERVAL_S = 2.0
MAX_LOAD = 0.1  # share of the time that reading may take
SLICE_S = 0.1  # after which a signal is noticed
RUNNING = "running"


def follow_log(log: GrowingLog, name: str, request: Request, interval_s: float = INTERVAL_S) -> list[RunReport]:
    """Print what is found in a growing log, until its run ends, a signal arrives, or a failing kind is found.

    Returns:
        The reports on its runs, for the summary.

    Raises:
        ConfigError: If nothing could be read, or a given fact contradicts the run.
    """
    print_fitted(f"following {name}; Ctrl-C ends with a summary")
    follower = LogFollower(log, request)
    with stop_on_signals("ending; press Ctrl-C again to end without the summary") as is_stopping:
        while True:
            is_last = log.has_ended or is_stopping()
            follower.look()
            if is_last or follower.has_finished:
                break
            until = time.monotonic() + max(interval_s, follower.read_seconds / MAX_LOAD)
            while time.monotonic() < until and not is_stopping() and not log.has_ended:
                log.wait(min(SLICE_S, interval_s))
    if not follower.histories:
        raise ConfigError(log.problem or f"{name}: nothing was written to it; pass a log that a program writes")
    return follower.conclude()


class LogFollower:
    """The runs in a growing log, and what was printed of them."""

    def __init__(self, log: GrowingLog, request: Request) -> None:
        self.histories: list[History] = []
        self.read_seconds = 0.0  # that the latest reading took
        self._log, self._request = log, request
        self._runs: list[FollowedRun] = []
        self._restarts, self._failed_looks, self._has_failed = 0, 0, False
        self._has_warned = False

    @property
    def has_finished(self) -> bool:
        """Return whether all runs have ended, or a kind was found that is to fail."""
        return self._has_failed or (bool(self.histories) and all(_has_ended(history) for history in self.histories))

    def look(self) -> None:
        """Read the log again if it has changed, and print what is new."""
        started = time.monotonic()
        histories = self._log.read_changed()
        self.read_seconds = time.monotonic() - started
        if histories is None:
            if self._log.problem:
                self._warn()
            return
        self._failed_looks = 0
        if self._log.restarts > self._restarts:
            print_fitted("the log began again with another run")
            self._runs, self._restarts = [], self._log.restarts
        self.histories, is_first = histories, not self._runs
        self._runs += [FollowedRun(self._request, history) for history in histories[len(self._runs) :]]
        for run, history in zip(self._runs, histories, strict=False):
            complete_facts(history, self._request, is_quiet=not is_first)
            if history.facts.status is None and not self._log.has_ended:
                history.facts = replace(history.facts, status=RUNNING)
            new = run.update(history)
            if progress := run.describe_progress():
                print_fitted(progress)
            for diagnosis in drop_refused_suggestions(self._log.path, new):
                print_fitted(*format_new_diagnosis(diagnosis, history, self._request.dialect))
            self._has_failed |= any(diagnosis.kind in self._request.failing_kinds for diagnosis in new)

    def _warn(self) -> None:
        """Say once, at the second of two failed looks, what cannot be read: at first, a program may not write yet."""
        self._failed_looks += 1
        if self._failed_looks > 1 and not self._has_warned:
            self._has_warned = True
            print_error(f"waiting for more: {self._log.problem}")

    def conclude(self) -> list[RunReport]:
        """Return the reports on all runs; print which findings are no longer true."""
        reports = []
        print()
        for run, history in zip(self._runs, self.histories, strict=False):
            if self._log.has_ended and not _has_ended(history):
                history.facts = replace(history.facts, status=None)  # known only now, after the last change
            report = report_run(history, self._log.path, self._request)
            if resolved := run.live.find_resolved(report.diagnoses):
                print_fitted(f"no longer: {', '.join(dict.fromkeys(one.kind for one in resolved))}")
            reports.append(report)
        return reports


class FollowedRun:
    """A run that grows, and what was found in it."""

    def __init__(self, request: Request, history: History) -> None:
        expectations = [*map(parse_expectation, history.facts.expect), *request.expectations]
        self.live = LiveDiagnosis(request.thresholds, expectations)
        self._request, self._current = request, list[Diagnosis]()
        self._described_at = -1

    def update(self, history: History) -> list[Diagnosis]:
        """Return what was not found before and is not likely to pass as the run goes on."""
        self.live.history = history
        self._current = self.live.diagnose_now()
        has_length = history.facts.total_steps is not None or history.facts.status != RUNNING
        return self.live.keep_new(self.live.select_settled(self._current, has_length))

    def describe_progress(self) -> str:
        """Return how far the run is and what was concluded if its steps have doubled, else an empty string."""
        history = self.live.history
        if history.last_step < 2 * self._described_at or history.last_step == self._described_at:
            return ""
        self._described_at = history.last_step
        parts = [describe_length(history), *describe_losses(history)]
        if not self.live.found:
            parts.append(assess(history, self._request.thresholds, self._current).conclusion)
        return " · ".join(parts)


def _has_ended(history: History) -> bool:
    return history.facts.status not in (None, RUNNING)
