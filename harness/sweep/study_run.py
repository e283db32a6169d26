"""Run the trials of an opened study: supervise the workers, show their progress, and keep the files of its folder."""

import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from omegaconf import OmegaConf

from harness.core.credentials import hide_credentials
from harness.core.errors import DamageError, RunFailedError, explain_path_error
from harness.core.paths import TRACEBACK_FILE
from harness.record import metrics_file
from harness.record.sweep_files import SPACE_PREFIX, read_setting_key
from harness.run import provenance
from harness.sweep.program_file import write_program
from harness.sweep.request import SweepRequest
from harness.sweep.results.formatting import format_sweep_params
from harness.sweep.results.summary import describe_total_failure, summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.study.trial_attrs import SWEEP_ID, WARM_START
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.monitor import SweepMonitor, handle_stop_signals, try_exclusive_lock
from harness.sweep.workers.worker import WorkerSpec
from harness.sweep.workers.worker_pool import WorkerGroup, WorkerPool
from harness.tracking import sweep_uploader
from harness.tracking.upload_process import UploadProcess

RESUME_REMEDY = "run the same command to resume"

MakeWorkers = Callable[[SweepRequest, WorkerSpec, TrialQueue], WorkerGroup]


class StudyEnd(NamedTuple):
    """End of a command that runs trials of a study: "completed", "interrupted" or "failed", and why.

    The reason is empty only if it is completed and all trials were run. `remedy` says how to go on if it is not.
    """

    status: str
    reason: str
    remedy: str = ""

    def raise_if_not_completed(self) -> None:
        """Raise an error unless all trials were run.

        Raises:
            RunFailedError: If trials failed or were interrupted; the message says how to go on.
        """
        if self.status != "completed":
            raise RunFailedError(f"{self.status}: {self.reason}; {self.remedy}")


class StudyResults(Protocol):
    """Results of a study: the files of its folder, and what is printed at its end."""

    def write_summary(self, status: str) -> None:
        """Write summary.json, which is uploaded; also while trials are running."""

    def write_files(self, status: str) -> None:
        """Write all files at the end."""

    def print_results(self, status: str) -> None:
        """Print the results, before the end of the upload is awaited."""

    def are_written(self) -> bool:
        """Return whether the files are those of an end, and show the study as it is now."""
        ...


def run_trials(
    request: SweepRequest, queue: TrialQueue, results: StudyResults, make_workers: MakeWorkers | None = None
) -> StudyEnd:
    """Run all trials of an opened study, write the files of its folder, and return how it ended.

    Args:
        make_workers: Returns the workers; by default processes on this machine.

    Raises:
        RunFailedError: If files cannot be written.
    """
    spec = _make_worker_spec(request)
    pool = make_workers(request, spec, queue) if make_workers else WorkerPool(spec)
    try:
        with ExitStack() as uploads:  # awaited last, when a signal may end the command
            end = _run_trials(request, queue, results, pool, uploads)
            results.print_results(end.status)
            return end
    except OSError as error:
        if problem := explain_path_error(error):
            raise RunFailedError(f"failed: {problem}, then run the same command to resume") from error
        raise


def _make_worker_spec(request: SweepRequest) -> WorkerSpec:
    workers = request.workers
    return WorkerSpec(
        study_name=request.study_name,
        storage=request.options.storage,
        folder=str(request.folder),
        n_threads=workers.n_threads,
        program=request.program,
        command=workers.command,
        cwd=workers.cwd,
        gpus=workers.gpus,
        n_jobs=workers.n_jobs,
        devices_per_trial=workers.devices_per_trial,
        n_processes=workers.n_processes,
    )


def _run_trials(
    request: SweepRequest, queue: TrialQueue, results: StudyResults, pool: WorkerGroup, uploads: ExitStack
) -> StudyEnd:
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
        is_written = is_only_sweep and not queue.has_more_trials() and results.are_written()
        if not is_written:
            results.write_summary("running")
        if request.is_uploaded and not (is_written and sweep_uploader.is_upload_complete(request.folder)):
            uploads.callback(UploadProcess(request.folder, request.store_uri).close)
        if is_written:  # as when the command of a finished sweep is repeated
            with closing(_make_table(request)) as table:
                table(summarize_trials(queue.study))
            return describe_end(request, queue)
        end = _supervise_workers(request, queue, results, pool, is_stopping)
        stack.callback(results.write_files, end.status)
    return end


def _make_table(request: SweepRequest) -> ProgressTable:
    return ProgressTable(request.options.objectives, request.budget, request.workers.n_jobs, has_best=request.has_best)


def _supervise_workers(
    request: SweepRequest,
    queue: TrialQueue,
    results: StudyResults,
    pool: WorkerGroup,
    is_stopping: Callable[[], bool],
) -> StudyEnd:
    """Supervise the workers until the sweep ends, and leave none running however it ends."""
    with ExitStack() as stack:
        table = _make_table(request)
        stack.callback(table.close)
        stack.callback(lambda: table(summarize_trials(queue.study)))
        stack.callback(queue.reap_dead_trials, is_leftover=True)
        stack.callback(pool.kill_workers)
        monitor = SweepMonitor(
            queue, pool, table, is_stopping, lambda: results.write_summary("running"), request.options.storage
        )
        outcome = monitor.run()
    if outcome.shortage:
        return StudyEnd("interrupted", outcome.shortage, RESUME_REMEDY)
    if is_stopping():
        return StudyEnd("interrupted", "stopped by a signal", RESUME_REMEDY)
    return describe_end(request, queue, outcome.error)


def describe_end(request: SweepRequest, queue: TrialQueue, error: str = "") -> StudyEnd:
    """Return how a sweep ended that was not interrupted; `error` ended it."""
    reasons, rename = queue.find_end_reasons(), request.command_line.rename_options
    trials = summarize_trials(queue.study)
    total_failure = describe_total_failure(trials)
    if failure := error or reasons.failures or total_failure:
        if files := sorted(request.folder.glob(f"*/{TRACEBACK_FILE}")):
            failure += f"; traceback: {files[-1]}"
        if reasons.is_fixable:
            return StudyEnd("failed", failure, f"fix that, then {RESUME_REMEDY}")
        new_study = rename(request.new_study_remedy)
        return StudyEnd("failed", failure, new_study if total_failure else RESUME_REMEDY)
    if reasons.exhausted_budget and not any(trial.n_segments for trial in trials):
        more_runs = request.more_runs_remedy or f"raise {request.budget.name_limit()}"
        remedy = more_runs if reasons.is_spent else request.more_time_remedy
        return StudyEnd("failed", f"no trial was run: {reasons.exhausted_budget}", rename(remedy))
    return StudyEnd("completed", reasons.exhausted_budget)


def _write_description(request: SweepRequest, queue: TrialQueue) -> None:
    """Write sweep.yaml for people, sweep.json for the upload to MLflow, and the program for later runs of it."""
    spec, folder, workers = request.spec, request.folder, request.workers
    ranges = request.space.format_ranges()
    settings: dict[str, Any] = {
        "study": request.study_name,
        "storage": hide_credentials(request.options.storage or "study.journal"),
        "objectives": list(spec.objectives),
        "n_trials": request.budget.n_trials,
        "runs": request.budget.runs,
        "max_tokens": request.budget.max_tokens,
        "warm_start": queue.study.user_attrs.get(WARM_START, {}).get("source"),
        "workers": {
            "launcher": workers.launcher,
            "n_jobs": workers.n_jobs,
            "devices_per_trial": workers.devices_per_trial or 1,
            "threads": workers.n_threads,
        },
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
    write_program(request)
