"""Run one sweep: create or resume its study, supervise the workers, write the results."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf

from harness.core.credentials import hide_credentials
from harness.core.digests import read_json
from harness.core.errors import DamageError, RunFailedError, explain_path_error
from harness.core.files import write_atomically
from harness.core.paths import TRACEBACK_FILE
from harness.core.terminal import print_fitted
from harness.record import metrics_file
from harness.record.sweep_files import SPACE_PREFIX, read_setting_key
from harness.run import provenance
from harness.sweep.request import SweepRequest
from harness.sweep.results.figures import MIN_COMPLETED, draw_study_figures
from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.formatting import format_sweep_params
from harness.sweep.results.result_files import optimization_results, summary_to_json
from harness.sweep.results.summary import SweepSummary, describe_total_failure, summarize_study, summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.study.distinct_sampler import find_tried_points, identify_point
from harness.sweep.study.setup import open_study
from harness.sweep.study.trial_attrs import SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.monitor import SweepMonitor, handle_stop_signals, try_exclusive_lock
from harness.sweep.workers.worker import WorkerSpec
from harness.sweep.workers.worker_pool import WorkerGroup, WorkerPool
from harness.tracking import sweep_uploader
from harness.tracking.upload_process import UploadProcess

FIGURES_FOLDER = "figures"
RESUME_REMEDY = "run the same command to resume"

MakeWorkers = Callable[[SweepRequest, WorkerSpec, TrialQueue], WorkerGroup]


class StudyEnd(NamedTuple):
    """End of a command that runs trials of a study: "completed", "interrupted" or "failed", and why.

    The reason is empty only if it is completed and all trials were run. `remedy` says how to go on if it is not.
    """

    status: str
    reason: str
    remedy: str = ""


@dataclass(frozen=True)
class StudyOutcome:
    """End of a command that ran trials of a study, and a summary of the study."""

    end: StudyEnd
    summary: SweepSummary

    def raise_if_not_completed(self) -> None:
        """Raise an error unless the sweep is completed.

        Raises:
            RunFailedError: If it failed or was interrupted; the message says how to go on.
        """
        if self.end.status != "completed":
            raise RunFailedError(f"{self.end.status}: {self.end.reason}; {self.end.remedy}")


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
    n_ended = sum(trial.is_over for trial in summarize_trials(queue.study))
    workers = request.workers
    spec = WorkerSpec(
        study_name=request.study_name,
        storage=request.options.storage,
        folder=str(request.folder),
        n_threads=workers.n_threads,
        program=request.program,
        command=workers.command,
        cwd=workers.cwd,
        gpus=workers.gpus,
        n_jobs=workers.n_jobs,
    )
    pool = make_workers(request, spec, queue) if make_workers else WorkerPool(spec)
    try:
        with ExitStack() as uploads:  # awaited last, when a signal may end the command
            end = _run_trials(request, queue, pool, uploads)
            summary = _summarize_request(request, queue, with_importances=end.status != "interrupted")
            print(format_sweep_summary(summary, request.command_line))
    except OSError as error:
        if problem := explain_path_error(error):
            raise RunFailedError(f"failed: {problem}, then run the same command to resume") from error
        raise
    if end.status == "completed":
        end = end._replace(reason=end.reason or _describe_exhausted_space(request, queue))
        if reason := end.reason or _describe_full_study(request, summary, n_ended):
            print_fitted(f"No more trials: {reason}.")
    return StudyOutcome(end, summary)


def _describe_exhausted_space(request: SweepRequest, queue: TrialQueue) -> str:
    """Return that every point of a finite space was run, or an empty string."""
    if request.n_points is None:
        return ""
    tried = find_tried_points(queue.study.get_trials(deepcopy=False)) - {identify_point({})}
    return f"all {request.n_points} points of the space have been run" if len(tried) >= request.n_points else ""


def _describe_full_study(request: SweepRequest, summary: SweepSummary, n_ended: int) -> str:
    """Return that the study, of which `n_ended` trials had ended before, had none left; or an empty string."""
    if n_ended < sum(trial.is_over for trial in summary.trials):
        return ""
    option = request.command_line.rename_options("sweep.n_trials")
    return f"all {request.budget.n_trials} were run before; raise {option} to run more"


def _run_trials(request: SweepRequest, queue: TrialQueue, pool: WorkerGroup, uploads: ExitStack) -> StudyEnd:
    """Run all trials of the sweep, write its files, and return how it ended; `uploads` awaits the upload."""
    started_at = time.time()
    deadline = started_at + request.options.max_seconds if request.options.max_seconds else None
    # Signals are handled until all files are written, so that a second Ctrl-C does not cut that short.
    with handle_stop_signals(pool) as is_stopping, ExitStack() as stack:
        is_only_sweep = stack.enter_context(try_exclusive_lock(request.folder))
        if is_only_sweep:
            _write_description(request, queue)
        queue.set_budget(replace(request.budget, started_at=started_at, deadline=deadline))
        queue.reap_dead_trials(is_leftover=True, is_only_sweep=is_only_sweep and queue.is_journal)
        is_written = is_only_sweep and not queue.has_more_trials() and _has_results(request, queue)
        if not is_written:
            _write_summary(request, queue, "running")
        if request.is_uploaded and not (is_written and sweep_uploader.is_upload_complete(request.folder)):
            uploads.callback(UploadProcess(request.folder, request.store_uri).close)
        if is_written:  # as when the command of a finished sweep is repeated
            with closing(_make_table(request)) as table:
                table(summarize_trials(queue.study))
            return _describe_end(request, queue)
        end = _supervise_workers(request, queue, pool, is_stopping)
        stack.callback(_write_results, request, queue, end.status)
    return end


def _make_table(request: SweepRequest) -> ProgressTable:
    return ProgressTable(request.options.objectives, request.budget.n_trials, request.workers.n_jobs)


def _supervise_workers(
    request: SweepRequest, queue: TrialQueue, pool: WorkerGroup, is_stopping: Callable[[], bool]
) -> StudyEnd:
    """Supervise the workers until the sweep ends, and leave none running however it ends."""
    with ExitStack() as stack:
        table = _make_table(request)
        stack.callback(table.close)
        stack.callback(lambda: table(summarize_trials(queue.study)))
        stack.callback(queue.reap_dead_trials, is_leftover=True)
        stack.callback(pool.kill_workers)
        monitor = SweepMonitor(
            queue, pool, table, is_stopping, lambda: _write_summary(request, queue, "running"), request.options.storage
        )
        outcome = monitor.run()
    if outcome.shortage:
        return StudyEnd("interrupted", outcome.shortage, RESUME_REMEDY)
    if is_stopping():
        return StudyEnd("interrupted", "stopped by a signal", RESUME_REMEDY)
    return _describe_end(request, queue, outcome.error)


def _describe_end(request: SweepRequest, queue: TrialQueue, error: str = "") -> StudyEnd:
    """Return how a sweep ended that was not interrupted; `error` ended it."""
    reasons, rename = queue.find_end_reasons(), request.command_line.rename_options
    trials = summarize_trials(queue.study)
    total_failure = describe_total_failure(trials)
    if failure := error or reasons.failures or total_failure:
        if files := sorted(request.folder.glob(f"*/{TRACEBACK_FILE}")):
            failure += f"; traceback: {files[-1]}"
        if reasons.is_fixable:
            return StudyEnd("failed", failure, f"fix that, then {RESUME_REMEDY}")
        new_study = rename("fix the cause and choose another sweep.study")
        return StudyEnd("failed", failure, new_study if total_failure else RESUME_REMEDY)
    if reasons.exhausted_budget and not any(trial.is_over for trial in trials):
        return StudyEnd("failed", f"no trial was run: {reasons.exhausted_budget}", rename("raise sweep.max_seconds"))
    return StudyEnd("completed", reasons.exhausted_budget)


def _write_description(request: SweepRequest, queue: TrialQueue) -> None:
    """Write sweep.yaml for people and sweep.json for the upload to MLflow."""
    spec, folder, workers = request.spec, request.folder, request.workers
    ranges = request.space.format_ranges()
    settings: dict[str, Any] = {
        "study": request.study_name,
        "storage": hide_credentials(request.options.storage or "study.journal"),
        "objectives": list(spec.objectives),
        "n_trials": request.budget.n_trials,
        "workers": {"launcher": workers.launcher, "n_jobs": workers.n_jobs, "threads": workers.n_threads},
        "seed": spec.seed,
        "sampler": dict(spec.sampler),
        "pruner": {**spec.pruner, "not_before_percent": round(100 * spec.warmup_share, 1)},
        **request.description,
    }
    OmegaConf.save(OmegaConf.create({"command": request.command, **settings, "space": ranges}), folder / "sweep.yaml")
    started_at_ms = time.time_ns() // 1_000_000
    with suppress(FileNotFoundError, DamageError):  # a damaged file is replaced
        started_at_ms = sweep_uploader.read_sweep_identity(folder)["started_at_ms"]
    metrics_file.write_json(folder / sweep_uploader.SWEEP_FILE, {
        "id": queue.study.user_attrs[SWEEP_ID],
        "name": request.study_name,
        "uri": hide_credentials(request.store_uri),
        "experiment": request.experiment,
        "started_at_ms": started_at_ms,
        "params": {
            **format_sweep_params(settings, request.space.group_options),
            **{f"{SPACE_PREFIX}{read_setting_key(key)}": text for key, text in ranges.items()},
        },
        "tags": {
            **provenance.describe_environment(Path(workers.cwd)),
            "command": request.command,
            "study": request.study_name,
        },
    })  # fmt: skip


def _write_summary(request: SweepRequest, queue: TrialQueue, status: str) -> None:
    summary = _summarize_request(request, queue, with_importances=False)
    ended_at_ms = None if status == "running" else time.time_ns() // 1_000_000
    metrics_file.write_json(request.folder / sweep_uploader.SUMMARY_FILE, summary_to_json(summary, status, ended_at_ms))


def _has_results(request: SweepRequest, queue: TrialQueue) -> bool:
    """Return whether the files of the sweep are those of an end, and show the study as it is now."""
    try:
        written = read_json(request.folder / sweep_uploader.SUMMARY_FILE)
        status, ended_at_ms = written["status"], written["ended_at_ms"]
    except (OSError, DamageError, KeyError):
        return False
    summary = _summarize_request(request, queue, with_importances=False)
    are_drawn = (request.folder / FIGURES_FOLDER).is_dir() or summary.n_completed < MIN_COMPLETED
    is_current = written == summary_to_json(summary, status, ended_at_ms)
    return is_current and are_drawn and status in ("completed", "failed") and not summary.counts["running"]


def _write_results(request: SweepRequest, queue: TrialQueue, status: str) -> None:
    """Write all files; without figures if the user waits for an interrupted sweep to end, which will be resumed."""
    results = OmegaConf.to_yaml(OmegaConf.create(optimization_results(queue.study)))
    write_atomically(request.folder / "optimization_results.yaml", results)
    if status != "interrupted":
        draw_study_figures(queue.study, request.folder / FIGURES_FOLDER)
    _write_summary(request, queue, status)


def _summarize_request(request: SweepRequest, queue: TrialQueue, *, with_importances: bool) -> SweepSummary:
    return summarize_study(
        queue.study,
        request.budget.n_trials,
        request.command_line.format_command,
        with_importances=with_importances,
    )
