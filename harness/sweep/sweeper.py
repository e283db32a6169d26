"""Run one sweep: check it, create or resume its study, supervise the workers, write the results."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from harness.config.alternatives import read_given_settings
from harness.config.compose import remove_credentials
from harness.config.overrides import format_value
from harness.core.credentials import hide_credentials
from harness.core.errors import DamageError, RunFailedError, explain_path_error
from harness.core.files import write_atomically
from harness.core.paths import TRACEBACK_FILE, project_dir
from harness.core.terminal import end_start, print_fitted, print_notes
from harness.preflight import CHECKS, preflight
from harness.preflight.render import describe_start, format_finding, print_finding, summarize_report
from harness.record import metrics_file
from harness.run import provenance
from harness.run.dry_run import dry_run
from harness.run.initial_weights import parse_base_experiment
from harness.run.preflight_adapter import open_training_setup
from harness.sweep.disk_space import check_disk_space
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.request import SweepRequest, read_sweep_request
from harness.sweep.results.figures import draw_study_figures
from harness.sweep.results.final_report import format_sweep_summary
from harness.sweep.results.formatting import format_sweep_params
from harness.sweep.results.result_files import optimization_results, summary_to_json
from harness.sweep.results.summary import describe_total_failure, summarize_study, summarize_trials
from harness.sweep.results.table import ProgressTable
from harness.sweep.space.search_space import range_ends
from harness.sweep.space.validation import (
    check_search_space,
    check_searched_keys,
    dry_run_from_scratch,
    find_misfit_keys,
    find_unusable_options,
)
from harness.sweep.study.distinct_sampler import find_tried_points, identify_point
from harness.sweep.study.liveness import this_process
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.monitor import SweepMonitor, handle_stop_signals, try_exclusive_lock
from harness.sweep.workers.worker import WorkerSpec
from harness.sweep.workers.worker_pool import LauncherPool, WorkerPool, run_launcher_job
from harness.tracking import sweep_uploader
from harness.tracking.store_uri import resolve_store_uri
from harness.tracking.upload_process import UploadProcess


def run_sweep(config: DictConfig, context: HydraContext, arguments: list[str]) -> None:
    """Run a new sweep, or resume one.

    Raises:
        ConfigError: If the configuration is invalid; no study is created then.
        RunFailedError: If the sweep failed or was interrupted.
    """
    silence_optuna()
    end_start()
    request = read_sweep_request(config, arguments)
    check_searched_keys(request.space, request.options.allow)  # before any data is read
    request = _leave_out_unusable_options(request, config, arguments)
    print_fitted(f"Checking both ends of every range: {', '.join(sorted(request.space.searched_keys))}")
    checked = check_search_space(request.space, request.options.allow)
    request = replace(request, spec=replace(request.spec, warmup_share=checked.warmup_share))
    print_notes((*request.notices, *checked.notices))
    disk_space = check_disk_space(request, checked.checkpoint_bytes)
    if request.options.dry_run:
        print_fitted("Measuring a few steps and an evaluation")
        print_fitted(*estimate_cost(request).splitlines(), *disk_space.splitlines())
        return
    is_resumed = check_existing_study(request)
    _ensure_base_model(request)
    findings = "" if is_resumed else _run_preflight(request)
    gc.collect()
    torch.cuda.empty_cache()  # leave the GPU memory of the checks to the workers
    queue = open_study(request)
    if findings:
        (request.folder / "preflight.txt").write_text(findings)
    workers = _describe_workers(request)
    print_fitted(f"Study {request.study_name}: {request.budget.n_trials} trials by {workers}, in {request.folder}")
    print_fitted(*disk_space.splitlines())
    try:
        with ExitStack() as uploads:  # awaited last, when a signal may end the command
            status, reason = _run_trials(request, queue, config, context, uploads)
            summary = summarize_study(queue.study, request.budget.n_trials, request.space.current)
            print(format_sweep_summary(summary))
    except OSError as error:
        if problem := explain_path_error(error):
            raise RunFailedError(f"failed: {problem}, then run the same command to resume") from error
        raise
    if status != "completed":
        is_over = bool(describe_total_failure(summary.trials))
        remedy = "repair it and choose another sweep.study" if is_over else "run the same command to resume"
        raise RunFailedError(f"{status}: {reason}; {remedy}")
    if reason or (reason := _describe_exhausted_space(request, queue)):
        print_fitted(f"No more trials: {reason}.")


def _leave_out_unusable_options(request: SweepRequest, config: DictConfig, arguments: list[str]) -> SweepRequest:
    """Leave out, with a note, what a sweep file searches and this run cannot.

    Such as an optimizer that does not take complex parameters, or the rank of LoRA if the run resumes another.
    """
    typed = read_given_settings(arguments)
    keys = [key for key in request.space.ranges if key in request.spec.params and key not in typed]
    unusable = find_unusable_options(request.space, [key for key in keys if key in request.spec.choices])
    misfits = find_misfit_keys(request.space, keys) if request.cfg.start.kind == "resume" else {}
    if not unusable and not misfits:
        return request
    current = {key: OmegaConf.select(request.cfg, key) for key in misfits}
    usable = {
        group: [option for option in range_ends(request.space.ranges[group]) if option not in dropped]
        for group, dropped in unusable.items()
    }
    choices = [f"{group}={','.join(options)}" for group, options in usable.items()]
    notices = [
        f"{group}={option} is not searched: {reason}"
        for group, dropped in unusable.items()
        for option, reason in dropped.items()
    ]
    notices += [
        f"{key} is not searched, it stays {format_value(current[key])}: {reason}" for key, reason in misfits.items()
    ]
    choices += [f"{key}={format_value(value)}" for key, value in current.items()]
    request = read_sweep_request(config, [*arguments, *choices])
    return replace(request, notices=(*notices, *request.notices))


def _describe_exhausted_space(request: SweepRequest, queue: TrialQueue) -> str:
    """Return that every point of a finite space was run, or an empty string."""
    if request.n_points is None:
        return ""
    tried = find_tried_points(queue.study.get_trials(deepcopy=False)) - {identify_point({})}
    return f"all {request.n_points} points of the space have been run" if len(tried) >= request.n_points else ""


def _ensure_base_model(request: SweepRequest) -> None:
    """Train the base model that trials start from if it is missing, with the whole machine."""
    dry_run(request.space.compose_config({}))  # builds the run, which trains and caches the weights it starts from


def _run_preflight(request: SweepRequest) -> str:
    """Return the findings of preflight on the current configuration, in lines.

    Raises:
        RunFailedError: If a check fails and preflight=stop.
    """
    if request.preflight == "skip":
        return ""
    with open_training_setup(_worker_config(request), request.budget.n_trials, request.n_jobs) as setup:
        print_fitted(f"{describe_start(setup, list(CHECKS))}, once; preflight=skip leaves it out")
        report = preflight(setup, on_finding=print_finding)
    print_fitted(summarize_report(report))
    if report.failed_checks and request.preflight == "stop":
        raise RunFailedError("preflight failed; fix the problem, or pass preflight=warn to search anyway")
    return "\n".join([*(format_finding(check, finding) for check, finding in report), summarize_report(report), ""])


def estimate_cost(request: SweepRequest) -> str:
    """Train a few steps to measure them; return the search space and the expected cost in lines."""
    run = dry_run_from_scratch(_worker_config(request), timed_steps=5)
    assert run.seconds_per_step is not None
    assert run.seconds_per_eval is not None
    trial_seconds = run.seconds_per_step * run.total_steps + run.seconds_per_eval * (run.evals + 1)
    n_trials = request.budget.n_trials
    minutes = math.ceil(n_trials / request.n_jobs) * trial_seconds / 60
    base = parse_base_experiment(OmegaConf.select(request.cfg, "start.source") or "")
    return "\n".join([
        f"Study {request.study_name}: {n_trials} trials by {_describe_workers(request)}"
        + (f"; the space has {request.n_points} points" if request.n_points else ""),
        *(f"  {key}: {text}" for key, text in request.space.format_ranges().items()),
        f"per trial: {run.total_steps} steps of {run.seconds_per_step:.3g} s and {run.evals + 1} evaluations of "
        f"{run.seconds_per_eval:.3g} s, {run.tokens:,.0f} tokens, {trial_seconds:.0f} s",
        f"in total: at most {n_trials * run.tokens:,.0f} tokens and {minutes:.1f} min without pruning"
        f"{', plus training of a missing base model' * bool(base)}; workers on one machine slow each other down",
    ])  # fmt: skip


def _worker_config(request: SweepRequest) -> DictConfig:
    """Return the current configuration with the number of threads of a worker."""
    cfg = request.space.compose_config({})
    cfg.device.threads = cfg.device.threads or request.n_threads
    return cfg


def _describe_workers(request: SweepRequest) -> str:
    each = " each" * (request.n_jobs > 1)
    threads = f" with {request.n_threads} thread{'s' * (request.n_threads > 1)}{each}" if request.n_threads else ""
    return f"{request.n_jobs} worker{'s' * (request.n_jobs > 1)}{threads}"


def _run_trials(
    request: SweepRequest, queue: TrialQueue, config: DictConfig, context: HydraContext, uploads: ExitStack
) -> tuple[str, str]:
    """Run all trials of the sweep, write its files, and return its status and reason; `uploads` awaits the upload."""
    started_at = time.time()
    deadline = started_at + request.options.max_seconds if request.options.max_seconds else None
    pool = _make_worker_pool(request, queue, config, context)
    # Signals are handled until all files are written, so that a second Ctrl-C does not cut that short.
    with handle_stop_signals(pool) as is_stopping, ExitStack() as stack:
        is_only_sweep = stack.enter_context(try_exclusive_lock(request.folder))
        if is_only_sweep:
            _write_description(request, queue)
        queue.set_budget(replace(request.budget, started_at=started_at, deadline=deadline))
        queue.reap_dead_trials(is_leftover=True, is_only_sweep=is_only_sweep and queue.is_journal)
        _write_summary(request, queue, "running")
        if "mlflow" in request.cfg.observers:
            uploads.callback(UploadProcess(request.folder, _store_uri(request)).close)
        status, reason = _supervise_workers(request, queue, pool, is_stopping)
        stack.callback(_write_results, request, queue, status)
    return status, reason


def _supervise_workers(
    request: SweepRequest, queue: TrialQueue, pool: WorkerPool | LauncherPool, is_stopping: Callable[[], bool]
) -> tuple[str, str]:
    """Supervise the workers until the sweep ends, and leave none running however it ends."""
    with ExitStack() as stack:
        table = ProgressTable(request.options.objectives, request.budget.n_trials, request.n_jobs)
        stack.callback(table.close)
        stack.callback(lambda: table(summarize_trials(queue.study)))
        stack.callback(queue.reap_dead_trials, is_leftover=True)
        stack.callback(pool.kill_workers)
        monitor = SweepMonitor(
            queue, pool, table, is_stopping, lambda: _write_summary(request, queue, "running"), request.options.storage
        )
        outcome = monitor.run()
    if outcome.shortage:
        return "interrupted", outcome.shortage
    if is_stopping():
        return "interrupted", "stopped by a signal"
    reasons = queue.find_end_reasons()
    failure = outcome.error or reasons.failures or describe_total_failure(summarize_trials(queue.study))
    if failure and (files := sorted(request.folder.glob(f"*/{TRACEBACK_FILE}"))):
        failure += f"; traceback: {files[-1]}"
    return ("failed", failure) if failure else ("completed", reasons.exhausted_budget)


def _make_worker_pool(
    request: SweepRequest, queue: TrialQueue, config: DictConfig, context: HydraContext
) -> WorkerPool | LauncherPool:
    spec = WorkerSpec(request.study_name, request.options.storage, str(request.folder), request.n_threads)
    if request.launcher == "basic":
        return WorkerPool(spec, request.n_jobs, request.n_gpus)
    config = config.copy()
    remove_credentials(config)  # some launchers write it to disk, and the jobs read only the WorkerSpec
    with read_write(config.hydra):
        OmegaConf.update(config, "hydra.sweep.dir", str(request.folder / "jobs"))
    # Jobs on a cluster belong to the cluster and may outlive this process.
    parent = this_process() if request.is_local else None
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=partial(run_launcher_job, spec, request.n_gpus, parent), config=config
    )
    return LauncherPool(launcher, request.n_jobs, request.folder, queue.request_stop)


def _write_description(request: SweepRequest, queue: TrialQueue) -> None:
    """Write sweep.yaml for people and sweep.json for the upload to MLflow."""
    spec, folder = request.spec, request.folder
    ranges = request.space.format_ranges()
    settings: dict[str, Any] = {
        "study": request.study_name,
        "storage": hide_credentials(request.options.storage or "study.journal"),
        "objectives": list(spec.objectives),
        "n_trials": request.budget.n_trials,
        "workers": {"launcher": request.launcher, "n_jobs": request.n_jobs, "threads": request.n_threads},
        "seed": spec.seed,
        "sampler": dict(spec.sampler),
        "pruner": {**spec.pruner, "not_before_percent": round(100 * spec.warmup_share, 1)},
        "locked": OmegaConf.to_container(request.cfg.locked),
        "unlock": OmegaConf.to_container(request.cfg.unlock),
    }
    command = provenance.current_command(spec.arguments)
    OmegaConf.save(OmegaConf.create({"command": command, **settings, "space": ranges}), folder / "sweep.yaml")
    started_at_ms = time.time_ns() // 1_000_000
    with suppress(FileNotFoundError, DamageError):  # a damaged file is replaced
        started_at_ms = sweep_uploader.read_sweep_identity(folder)["started_at_ms"]
    mlflow = request.cfg.observers.get("mlflow", {})
    metrics_file.write_json(folder / sweep_uploader.SWEEP_FILE, {
        "id": queue.study.user_attrs[SWEEP_ID],
        "name": request.study_name,
        "uri": hide_credentials(_store_uri(request)),
        "experiment": mlflow.get("experiment", "default"),
        "started_at_ms": started_at_ms,
        "params": format_sweep_params(settings, spec.choices) | {f"space.{key}": text for key, text in ranges.items()},
        "tags": {
            **provenance.describe_environment(project_dir()), "command": command, "study": request.study_name
        },
    })  # fmt: skip


def _store_uri(request: SweepRequest) -> str:
    """Return the address of the MLflow store, with its credentials."""
    return resolve_store_uri(request.store_uri)


def _write_summary(request: SweepRequest, queue: TrialQueue, status: str) -> None:
    summary = summarize_study(queue.study, request.budget.n_trials, request.space.current, with_importances=False)
    ended_at_ms = None if status == "running" else time.time_ns() // 1_000_000
    metrics_file.write_json(request.folder / sweep_uploader.SUMMARY_FILE, summary_to_json(summary, status, ended_at_ms))


def _write_results(request: SweepRequest, queue: TrialQueue, status: str) -> None:
    results = OmegaConf.to_yaml(OmegaConf.create(optimization_results(queue.study)))
    write_atomically(request.folder / "optimization_results.yaml", results)
    draw_study_figures(queue.study, request.folder / "figures")
    _write_summary(request, queue, status)
