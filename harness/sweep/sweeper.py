"""Run one sweep: create or resume its study, run its trials, write and print the results."""

import time
from collections.abc import Sequence
from typing import NamedTuple

from omegaconf import OmegaConf

from harness.core.digests import read_json
from harness.core.errors import DamageError
from harness.core.files import write_atomically
from harness.core.terminal import print_fitted
from harness.record import metrics_file
from harness.record.run_lookup import describe_study_name
from harness.record.sweep_files import SUMMARY_FILE
from harness.sweep.request import SweepRequest
from harness.sweep.results.figures import MIN_COMPLETED, draw_study_figures
from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.result_files import optimization_results, summary_to_json
from harness.sweep.results.summary import SweepSummary, summarize_study, summarize_trials
from harness.sweep.study.distinct_sampler import find_tried_points, identify_point
from harness.sweep.study.setup import open_study
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.study_run import MakeWorkers, StudyEnd, run_trials

FIGURES_FOLDER = "figures"


class StudyOutcome(NamedTuple):
    """End of a command that ran trials of a study, and a summary of the study."""

    end: StudyEnd
    summary: SweepSummary


def run_study(
    request: SweepRequest, make_workers: MakeWorkers | None = None, *, findings: str = "", notes: Sequence[str] = ()
) -> StudyOutcome:
    """Create or resume the study of a request, run its trials, and print and return what came out.

    Args:
        make_workers: Returns the workers; by default processes on this machine.
        findings: Those of preflight, which are kept in the sweep's folder.
        notes: Lines to print before the first trial.

    Raises:
        ConfigError: If the study exists with other settings or cannot be opened.
        RunFailedError: If the files of the sweep cannot be written.
    """
    queue = open_study(request)
    if findings:
        (request.folder / "preflight.txt").write_text(findings)
    print_fitted(request.describe_size(), *notes)
    n_segments = sum(trial.n_segments for trial in summarize_trials(queue.study))
    results = SweepResults(request, queue)
    end = run_trials(request, queue, results, make_workers)
    summary = results.summarize(with_importances=False)
    if end.status == "completed":
        end = end._replace(reason=end.reason or _describe_exhausted_space(request, queue))
        if reason := end.reason or _describe_full_study(request, summary, n_segments):
            print_fitted(f"No more trials: {reason}.")
    return StudyOutcome(end, summary)


def _describe_exhausted_space(request: SweepRequest, queue: TrialQueue) -> str:
    """Return that every point of a finite space was run, or an empty string."""
    if request.n_points is None:
        return ""
    tried = find_tried_points(queue.study.get_trials(deepcopy=False)) - {identify_point({})}
    return f"all {request.n_points} points of the space have been run" if len(tried) >= request.n_points else ""


def _describe_full_study(request: SweepRequest, summary: SweepSummary, n_segments: int) -> str:
    """Return that the study had nothing left to do after `n_segments`, done before; or an empty string."""
    if n_segments < sum(trial.n_segments for trial in summary.trials):
        return ""
    option = request.command_line.rename_options("sweep.n_trials")
    return f"all {request.budget.n_trials} were run before; raise {option} to run more"


class SweepResults:
    """The files of a sweep's folder, and its printed summary."""

    def __init__(self, request: SweepRequest, queue: TrialQueue) -> None:
        self._request, self._queue, self._folder = request, queue, request.folder

    def summarize(self, *, with_importances: bool) -> SweepSummary:
        return summarize_study(
            self._queue.study,
            self._request.budget,
            self._request.command_line.format_command,
            with_importances=with_importances,
        )

    def write_summary(self, status: str) -> None:
        summary = self.summarize(with_importances=False)
        ended_at_ms = None if status == "running" else time.time_ns() // 1_000_000
        metrics_file.write_json(self._folder / SUMMARY_FILE, summary_to_json(summary, status, ended_at_ms))

    def write_files(self, status: str) -> None:
        """Write all files; without figures if the user waits for an interrupted sweep to end, which will be resumed."""
        results = OmegaConf.to_yaml(OmegaConf.create(optimization_results(self._queue.study)))
        write_atomically(self._folder / "optimization_results.yaml", results)
        if status != "interrupted":
            draw_study_figures(self._queue.study, self._folder / FIGURES_FOLDER)
        self.write_summary(status)

    def print_results(self, status: str) -> None:
        summary = self.summarize(with_importances=status != "interrupted")
        print(format_sweep_summary(summary, self._request.command_line, describe_study_name(self._folder), status))

    def are_written(self) -> bool:
        try:
            written = read_json(self._folder / SUMMARY_FILE)
            status, ended_at_ms = written["status"], written["ended_at_ms"]
        except (OSError, DamageError, KeyError):
            return False
        summary = self.summarize(with_importances=False)
        are_drawn = (self._folder / FIGURES_FOLDER).is_dir() or summary.n_completed < MIN_COMPLETED
        is_current = written == summary_to_json(summary, status, ended_at_ms)
        return is_current and are_drawn and status in ("completed", "failed") and not summary.counts["running"]
