"""One sweep from what is asked to its end: checked, begun or gone on with, watched, summed up."""

import gc
import math
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import torch
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from harness.core.errors import RunFailedError
from harness.core.files import write_atomically
from harness.preflight import CHECKS, preflight
from harness.preflight.render import format_finding, print_finding, summarize_report
from harness.record import metrics_file
from harness.run import provenance
from harness.run.dry_run import dry_run
from harness.run.preflight_adapter import open_training_setup
from harness.run.runner import BaseRunFailed
from harness.sweep.optuna_internals import silence_optuna
from harness.sweep.report.figures import draw_study_figures
from harness.sweep.report.final_report import format_sweep_summary
from harness.sweep.report.result_files import optimization_results, summary_to_json
from harness.sweep.report.summary import summarize_study, summarize_trials
from harness.sweep.report.table import ProgressTable
from harness.sweep.request import SweepRequest, read_sweep_request
from harness.sweep.space.validation import check_search_space, dry_run_from_scratch
from harness.sweep.study.liveness import this_process
from harness.sweep.study.setup import check_existing_study, open_study
from harness.sweep.study.trial_attrs import SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue
from harness.sweep.workers.monitor import SweepMonitor, exclusive_lock, handle_stop_signals
from harness.sweep.workers.worker import WorkerSpec
from harness.sweep.workers.worker_pool import LauncherPool, WorkerPool, run_launcher_job
from harness.tracking import sweep_uploader
from harness.tracking.store_uri import default_store_uri, hide_credentials
from harness.tracking.upload_process import UploadProcess


def run_sweep(config: DictConfig, context: HydraContext, arguments: list[str]) -> None:
    """Search, or go on searching.

    ConfigError, with no study made, for what cannot work; Ended where failures or the user ended it.
    """
    silence_optuna()
    asked = read_sweep_request(config, arguments)
    print(
        f"Checking that both ends of every range can be trained, and compared: {', '.join(sorted(asked.space.searched_keys))}"
    )
    checked = check_search_space(asked.space, asked.options.allow)
    asked = replace(asked, spec=replace(asked.spec, warmup_share=checked.warmup_share))
    for notice in checked.notices:
        print(f"note: {notice}")
    if asked.options.dry_run:
        print(format_cost_estimate(asked))
        return
    is_known = check_existing_study(asked)
    _ensure_base_model(asked)
    findings = "" if is_known else _run_preflight(asked)
    gc.collect()
    torch.cuda.empty_cache()  # what the checks took of a GPU is the workers' now; does nothing without one
    queue = open_study(asked)
    if findings:
        (asked.folder / "preflight.txt").write_text(findings)
    print(f"Study {asked.study_name}: {asked.budget.n_trials} trials by {_describe_workers(asked)}, in {asked.folder}")
    status, why = _run_trials(asked, queue, config, context)
    print(format_sweep_summary(summarize_study(queue.study, asked.budget.n_trials, asked.space.fixed)))
    if status != "completed":
        raise RunFailedError(f"{status}: {why}; the same command goes on with it")
    if why:
        print(f"No more trials: {why}.")


def _ensure_base_model(asked: SweepRequest) -> None:
    """Have the base that trials start from, where one is missing, with the whole machine and told as any run is."""
    try:
        dry_run(asked.space.compose_config({}))
    except BaseRunFailed as error:
        raise RunFailedError(f"{error.result.status}: {error.result.reason}") from error


def _run_preflight(asked: SweepRequest) -> str:
    """What preflight finds of the present config, in lines; Ended where a check fails and is to stop the sweep."""
    if asked.preflight == "skip":
        return ""
    print(f"Preflight of the present config (once; preflight=skip leaves it out): {', '.join(CHECKS)}")
    with open_training_setup(_worker_config(asked), asked.budget.n_trials, asked.n_jobs) as setup:
        report = preflight(setup, on_finding=print_finding)
    print(summarize_report(report))
    if report.failed_checks and asked.preflight == "stop":
        raise RunFailedError(
            "nothing is searched, for a sweep over a fault is a waste; to search all the same: preflight=warn"
        )
    return "\n".join([*(format_finding(check, finding) for check, finding in report), summarize_report(report), ""])


def format_cost_estimate(asked: SweepRequest) -> str:
    """What the sweep would try and cost, from a few measured steps."""
    run = dry_run_from_scratch(_worker_config(asked), timed_steps=5)
    trial_seconds = run.seconds_per_step * run.total_steps + run.seconds_per_eval * (run.evals + 1)
    n_trials = asked.budget.n_trials
    minutes = math.ceil(n_trials / asked.n_jobs) * trial_seconds / 60
    return "\n".join([
        f"Study {asked.study_name}: {n_trials} trials by {_describe_workers(asked)}",
        *(f"  {key}: {text}" for key, text in asked.space.format_ranges().items()),
        f"a trial: {run.total_steps} steps of {run.seconds_per_step:.3g} s and {run.evals + 1} evaluations of "
        f"{run.seconds_per_eval:.3g} s, {run.tokens:,.0f} tokens, {trial_seconds:.0f} s",
        f"in all: at most {n_trials * run.tokens:,.0f} tokens and {minutes:.1f} min, if "
        "nothing is pruned, without a base that is still to be trained; workers that share a machine slow each other",
    ])  # fmt: skip


def _worker_config(asked: SweepRequest) -> DictConfig:
    """The present config with the threads that it has there."""
    cfg = asked.space.compose_config({})
    cfg.device.threads = cfg.device.threads or asked.n_threads
    return cfg


def _describe_workers(asked: SweepRequest) -> str:
    threads = f" of {asked.n_threads} threads" if asked.n_threads else ""
    return f"{asked.n_jobs} worker{'s' * (asked.n_jobs > 1)}{threads}"


def _run_trials(asked: SweepRequest, queue: TrialQueue, config: DictConfig, context: HydraContext) -> tuple[str, str]:
    """Status and reason of a sweep whose trials have all been run, or stopped; what it came to lies in its folder."""
    began_at = time.time()
    deadline = began_at + asked.options.max_seconds if asked.options.max_seconds else None
    crew = _make_worker_pool(asked, queue, config, context)
    with (
        handle_stop_signals(crew) as is_stopping,
        ExitStack() as stack,
    ):  # what ends the sweep is not cut short by a signal
        is_alone = stack.enter_context(exclusive_lock(asked.folder))
        if is_alone:
            _write_description(asked, queue)
        queue.set_budget(replace(asked.budget, started_at=began_at, deadline=deadline))
        queue.reap_dead_trials(is_leftover=True, is_only_sweep=is_alone and queue.is_journal)
        _write_summary(asked, queue, "running")
        if "mlflow" in asked.cfg.observers:
            stack.callback(UploadProcess(asked.folder).close)
        status, why = _supervise_workers(asked, queue, crew, is_stopping)
        stack.callback(_write_results, asked, queue, status)
    return status, why


def _supervise_workers(
    asked: SweepRequest, queue: TrialQueue, crew: WorkerPool | LauncherPool, is_stopping: Callable[[], bool]
) -> tuple[str, str]:
    """Have the trials run; however that ends, none of ours is left running."""
    with ExitStack() as stack:
        table = ProgressTable(asked.options.objectives, asked.budget.n_trials, asked.n_jobs)
        stack.callback(table.close)
        stack.callback(lambda: table(summarize_trials(queue.study)))
        stack.callback(queue.reap_dead_trials, is_leftover=True)
        stack.callback(crew.kill_workers)
        monitor = SweepMonitor(queue, crew, table, is_stopping, lambda: _write_summary(asked, queue, "running"))
        trouble = monitor.run()
    if is_stopping():
        return "interrupted", "stopped by a signal"
    failures, spent = queue.describe_end()
    return ("failed", trouble or failures) if trouble or failures else ("completed", spent)


def _make_worker_pool(
    asked: SweepRequest, queue: TrialQueue, config: DictConfig, context: HydraContext
) -> WorkerPool | LauncherPool:
    post = WorkerSpec(asked.study_name, asked.options.storage, str(asked.folder), asked.n_threads)
    if asked.launcher == "basic":
        return WorkerPool(post, asked.n_jobs, asked.n_gpus)
    config = config.copy()
    with read_write(config.hydra):
        OmegaConf.update(config, "hydra.sweep.dir", str(asked.folder / "jobs"))
    watched = this_process() if asked.is_local else None  # elsewhere, jobs are the cluster's and may go on alone
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=partial(run_launcher_job, post, asked.n_gpus, watched), config=config
    )
    return LauncherPool(launcher, asked.n_jobs, asked.folder, queue.request_stop)


def _write_description(asked: SweepRequest, queue: TrialQueue) -> None:
    """sweep.json says who the sweep is, to MLflow; sweep.yaml what it does, to people."""
    plan = asked.spec
    said_of_it = {
        "study": asked.study_name,
        "storage": hide_credentials(asked.options.storage or "study.journal"),
        "command": provenance.current_command(),
        "objectives": list(plan.objectives),
        "n_trials": asked.budget.n_trials,
        "workers": {"launcher": asked.launcher, "n_jobs": asked.n_jobs, "threads": asked.n_threads},
        "seed": plan.seed,
        "sampler": dict(plan.sampler),
        "pruner": {**plan.pruner, "not_before_percent": round(100 * plan.warmup_share, 1)},
        "space": asked.space.format_ranges(),
        "locked": OmegaConf.to_container(asked.cfg.locked),
        "unlock": OmegaConf.to_container(asked.cfg.unlock),
    }
    OmegaConf.save(OmegaConf.create(said_of_it), asked.folder / "sweep.yaml")
    started_at_ms = time.time_ns() // 1_000_000
    mlflow = asked.cfg.observers.get("mlflow", {})
    path = asked.folder / sweep_uploader.SWEEP_FILE
    with suppress(FileNotFoundError):
        started_at_ms = sweep_uploader.read_sweep_identity(asked.folder)["started_at_ms"]
    metrics_file.write_json(path, {
        "id": queue.study.user_attrs[SWEEP_ID],
        "name": asked.study_name,
        "uri": mlflow.get("uri") or default_store_uri(),
        "experiment": mlflow.get("experiment", "default"),
        "started_at_ms": started_at_ms,
        "params": {key: str(value) for key, value in said_of_it.items() if key not in ("command", "space")}
        | {f"space.{key}": text for key, text in said_of_it["space"].items()},
        "tags": {"command": said_of_it["command"], "study": asked.study_name},
    })  # fmt: skip


def _write_summary(asked: SweepRequest, queue: TrialQueue, status: str) -> None:
    summary = summarize_study(queue.study, asked.budget.n_trials, asked.space.fixed, with_importances=False)
    ended_at_ms = None if status == "running" else time.time_ns() // 1_000_000
    metrics_file.write_json(asked.folder / sweep_uploader.SUMMARY_FILE, summary_to_json(summary, status, ended_at_ms))


def _write_results(asked: SweepRequest, queue: TrialQueue, status: str) -> None:
    results = OmegaConf.to_yaml(OmegaConf.create(optimization_results(queue.study)))
    write_atomically(asked.folder / "optimization_results.yaml", results)
    draw_study_figures(queue.study, asked.folder / "figures")
    _write_summary(asked, queue, status)
