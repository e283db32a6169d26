"""One sweep from what is asked to its end: checked, begun or gone on with, watched, summed up."""

import gc
import math
import os
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial

import torch
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from harness.config.errors import Ended
from harness.preflight import CHECKS, preflight
from harness.preflight.render import line, show, summary
from harness.record import metrics_file
from harness.run import provenance
from harness.run.dry_run import prepare
from harness.run.preflight_adapter import subject_of
from harness.run.runner import BaseEnded
from harness.sweep.report.figures import draw
from harness.sweep.report.summary import facts, results, summarise, summary_json
from harness.sweep.report.table import Table, tell
from harness.sweep.request import Asked, read
from harness.sweep.space.validation import check_space, prepared
from harness.sweep.study.liveness import this_process
from harness.sweep.study.setup import check_study, open_study
from harness.sweep.study.trial_attrs import SWEEP_ID
from harness.sweep.study.trial_queue import Queue
from harness.sweep.workers.monitor import sole, stoppable, watch
from harness.sweep.workers.worker import Post, hush
from harness.sweep.workers.worker_pool import Crew, Launched, job
from harness.tracking import sweep_uploader
from harness.tracking.store_uri import default_uri, shown
from harness.tracking.upload_process import Follower


def sweep(config: DictConfig, context: HydraContext, arguments: list[str]) -> None:
    """Search, or go on searching.

    ConfigError, with no study made, for what cannot work; Ended where failures or the user ended it.
    """
    hush()
    asked = read(config, arguments)
    print(f"Checking that both ends of every range can be trained, and compared: {', '.join(sorted(asked.space.keys))}")
    checked = check_space(asked.space, asked.options.allow)
    asked = replace(asked, plan=replace(asked.plan, warmup_share=checked.warmup_share))
    for notice in checked.notices:
        print(f"note: {notice}")
    if asked.options.dry_run:
        print(forecast(asked))
        return
    is_known = check_study(asked)
    _train_base(asked)
    findings = "" if is_known else _check_first(asked)
    gc.collect()
    torch.cuda.empty_cache()  # what the checks took of a GPU is the workers' now; does nothing without one
    queue = open_study(asked)
    if findings:
        (asked.folder / "preflight.txt").write_text(findings)
    print(f"Study {asked.name}: {asked.limits.n_trials} trials by {_workers(asked)}, in {asked.folder}")
    status, why = _work(asked, queue, config, context)
    print(tell(summarise(queue.study, asked.limits.n_trials, asked.space.fixed)))
    if status != "completed":
        raise Ended(f"{status}: {why}; the same command goes on with it")
    if why:
        print(f"No more trials: {why}.")


def _train_base(asked: Asked) -> None:
    """Have the base that trials start from, where one is missing, with the whole machine and told as any run is."""
    try:
        prepare(asked.space.compose({}))
    except BaseEnded as error:
        raise Ended(f"{error.result.status}: {error.result.reason}") from error


def _check_first(asked: Asked) -> str:
    """What preflight finds of the present config, in lines; Ended where a check fails and is to stop the sweep."""
    if asked.preflight == "skip":
        return ""
    print(f"Preflight of the present config (once; preflight=skip leaves it out): {', '.join(CHECKS)}")
    with subject_of(_in_a_worker(asked), asked.limits.n_trials, asked.n_jobs) as subject:
        report = preflight(subject, tell=show)
    print(summary(report))
    if report.failed and asked.preflight == "stop":
        raise Ended("nothing is searched, for a sweep over a fault is a waste; to search all the same: preflight=warn")
    return "\n".join([*(line(check, finding) for check, finding in report), summary(report), ""])


def forecast(asked: Asked) -> str:
    """What the sweep would try and cost, from a few measured steps."""
    run = prepared(_in_a_worker(asked), steps=5)
    trial_seconds = run.seconds_per_step * run.total_steps + run.seconds_per_eval * (run.evals + 1)
    n_trials = asked.limits.n_trials
    minutes = math.ceil(n_trials / asked.n_jobs) * trial_seconds / 60
    return "\n".join([
        f"Study {asked.name}: {n_trials} trials by {_workers(asked)}",
        *(f"  {key}: {text}" for key, text in asked.space.texts().items()),
        f"a trial: {run.total_steps} steps of {run.seconds_per_step:.3g} s and {run.evals + 1} evaluations of "
        f"{run.seconds_per_eval:.3g} s, {run.tokens:,.0f} tokens, {trial_seconds:.0f} s",
        f"in all: at most {n_trials * run.tokens:,.0f} tokens and {minutes:.1f} min, if "
        "nothing is pruned, without a base that is still to be trained; workers that share a machine slow each other",
    ])  # fmt: skip


def _in_a_worker(asked: Asked) -> DictConfig:
    """The present config with the threads that it has there."""
    cfg = asked.space.compose({})
    cfg.device.threads = cfg.device.threads or asked.threads
    return cfg


def _workers(asked: Asked) -> str:
    threads = f" of {asked.threads} threads" if asked.threads else ""
    return f"{asked.n_jobs} worker{'s' * (asked.n_jobs > 1)}{threads}"


def _work(asked: Asked, queue: Queue, config: DictConfig, context: HydraContext) -> tuple[str, str]:
    """Status and reason of a sweep whose trials have all been run, or stopped; what it came to lies in its folder."""
    began_at = time.time()
    deadline = began_at + asked.options.max_seconds if asked.options.max_seconds else None
    crew = _crew(asked, queue, config, context)
    with stoppable(crew) as is_stopping, ExitStack() as stack:  # what ends the sweep is not cut short by a signal
        is_alone = stack.enter_context(sole(asked.folder))
        if is_alone:
            _describe(asked, queue)
        queue.begin(replace(asked.limits, began_at=began_at, deadline=deadline))
        queue.reap(is_leftover=True, is_alone=is_alone and queue.is_journal)
        _write_summary(asked, queue, "running")
        if "mlflow" in asked.cfg.observers:
            stack.callback(Follower(asked.folder).close)
        status, why = _serve(asked, queue, crew, is_stopping)
        stack.callback(_write_results, asked, queue, status)
    return status, why


def _serve(asked: Asked, queue: Queue, crew: Crew | Launched, is_stopping: Callable[[], bool]) -> tuple[str, str]:
    """Have the trials run; however that ends, none of ours is left running."""
    with ExitStack() as stack:
        table = Table(asked.options.objectives, asked.limits.n_trials, asked.n_jobs)
        stack.callback(table.close)
        stack.callback(lambda: table(facts(queue.study)))
        stack.callback(queue.reap, is_leftover=True)
        stack.callback(crew.kill)
        trouble = watch(queue, crew, table, is_stopping, tell=lambda: _write_summary(asked, queue, "running"))
    if is_stopping():
        return "interrupted", "stopped by a signal"
    failures, spent = queue.ending()
    return ("failed", trouble or failures) if trouble or failures else ("completed", spent)


def _crew(asked: Asked, queue: Queue, config: DictConfig, context: HydraContext) -> Crew | Launched:
    post = Post(asked.name, asked.options.storage, str(asked.folder), asked.threads)
    if asked.launcher == "basic":
        return Crew(post, asked.n_jobs, asked.gpus)
    config = config.copy()
    with read_write(config.hydra):
        OmegaConf.update(config, "hydra.sweep.dir", str(asked.folder / "jobs"))
    watched = this_process() if asked.is_local else None  # elsewhere, jobs are the cluster's and may go on alone
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=partial(job, post, asked.gpus, watched), config=config
    )
    return Launched(launcher, asked.n_jobs, asked.folder, queue.ask_to_stop)


def _describe(asked: Asked, queue: Queue) -> None:
    """sweep.json says who the sweep is, to MLflow; sweep.yaml what it does, to people."""
    plan = asked.plan
    said_of_it = {
        "study": asked.name,
        "storage": shown(asked.options.storage or "study.journal"),
        "command": provenance.command(),
        "objectives": list(plan.objectives),
        "n_trials": asked.limits.n_trials,
        "workers": {"launcher": asked.launcher, "n_jobs": asked.n_jobs, "threads": asked.threads},
        "seed": plan.seed,
        "sampler": dict(plan.sampler),
        "pruner": {**plan.pruner, "not_before_percent": round(100 * plan.warmup_share, 1)},
        "space": asked.space.texts(),
        "locked": OmegaConf.to_container(asked.cfg.locked),
        "unlock": OmegaConf.to_container(asked.cfg.unlock),
    }
    OmegaConf.save(OmegaConf.create(said_of_it), asked.folder / "sweep.yaml")
    started_at_ms = time.time_ns() // 1_000_000
    mlflow = asked.cfg.observers.get("mlflow", {})
    path = asked.folder / sweep_uploader.IDENTITY
    with suppress(FileNotFoundError):
        started_at_ms = sweep_uploader.identity(asked.folder)["started_at_ms"]
    metrics_file.replace(path, {
        "id": queue.study.user_attrs[SWEEP_ID],
        "name": asked.name,
        "uri": mlflow.get("uri") or default_uri(),
        "experiment": mlflow.get("experiment", "default"),
        "started_at_ms": started_at_ms,
        "params": {key: str(value) for key, value in said_of_it.items() if key not in ("command", "space")}
        | {f"space.{key}": text for key, text in said_of_it["space"].items()},
        "tags": {"command": said_of_it["command"], "study": asked.name},
    })  # fmt: skip


def _write_summary(asked: Asked, queue: Queue, status: str) -> None:
    summary = summarise(queue.study, asked.limits.n_trials, asked.space.fixed, weigh=False)
    ended_at_ms = None if status == "running" else time.time_ns() // 1_000_000
    metrics_file.replace(asked.folder / sweep_uploader.SUMMARY, summary_json(summary, status, ended_at_ms))


def _write_results(asked: Asked, queue: Queue, status: str) -> None:
    draft = asked.folder / f"optimization_results.yaml.{os.getpid()}.partial"
    OmegaConf.save(OmegaConf.create(results(queue.study)), draft)
    draft.rename(asked.folder / "optimization_results.yaml")
    draw(queue.study, asked.folder / "figures")
    _write_summary(asked, queue, status)
