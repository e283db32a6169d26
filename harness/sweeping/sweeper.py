"""One sweep from what is asked to its end: checked, begun or gone on with, watched, summed up."""

import signal
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from functools import partial

import optuna
from hydra.core.plugins import Plugins
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, read_write

from harness import provenance
from harness.explain import ConfigError, Ended
from harness.observers import parent, record
from harness.observers.follow import Follower
from harness.observers.store import default_uri, shown
from harness.runner import BaseEnded, prepare
from harness.sweeping.asked import Asked, read
from harness.sweeping.check import check_space, present_values
from harness.sweeping.crew import MAX_DEATHS, Crew, Launched, job
from harness.sweeping.facts import facts, results, summarise, summary_json
from harness.sweeping.figures import draw
from harness.sweeping.marks import BASELINE, IS_OUTSIDE, PLAN, SWEEP_ID
from harness.sweeping.plan import Plan
from harness.sweeping.queue import Queue, this_process
from harness.sweeping.storage import open_storage
from harness.sweeping.table import Table, tell
from harness.sweeping.worker import Post, hush

LOOK_SECONDS, REAP_SECONDS = 0.5, 5.0


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
    check_study(asked)
    _train_base(asked)
    queue = open_study(asked)
    _describe(asked, queue)
    print(f"Study {asked.name}: {asked.limits.n_trials} trials by {_workers(asked)}, in {asked.folder}")
    status, why = _work(asked, queue, config, context)
    summary = summarise(queue.study, asked.limits.n_trials, asked.space.fixed)
    print(tell(summary))
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


def check_study(asked: Asked) -> None:
    """ConfigError where the study cannot be kept, or was made for something else; it is told before a base is trained,
    and no study is made."""
    if asked.options.storage is None and not asked.folder.exists():
        return
    storage = open_storage(asked.options.storage, asked.folder)
    if asked.name in optuna.get_all_study_names(storage):
        _refuse_changes(asked, optuna.load_study(study_name=asked.name, storage=storage))


def _refuse_changes(asked: Asked, study: optuna.Study) -> None:
    known = study.user_attrs.get(PLAN)
    changes = asked.plan.difference(Plan(**known)) if known else []
    if changes:
        told = "\n".join(changes)
        raise ConfigError(f"study {asked.name} was made for something else:\n{told}\na new one: sweep.study=NAME")


def open_study(asked: Asked) -> Queue:
    """The study, made or found; ConfigError, with the difference, where it was made for another space or objective."""
    asked.folder.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=asked.name,
        storage=open_storage(asked.options.storage, asked.folder),
        sampler=asked.plan.make_sampler(),
        pruner=asked.plan.make_pruner(),
        directions=["minimize"] * len(asked.options.objectives),
        load_if_exists=True,
    )
    queue = Queue(study, asked.space, asked.folder)
    with queue.turn():
        _refuse_changes(asked, study)
        if PLAN not in study.user_attrs:
            study.set_user_attr(SWEEP_ID, uuid.uuid4().hex)
            _enqueue(asked, study)
        study.set_user_attr(PLAN, asdict(asked.plan))
    return queue


def forecast(asked: Asked) -> str:
    """What the sweep would try and cost, from a few measured steps."""
    cfg = asked.cfg.copy()
    cfg.device.threads = cfg.device.threads or asked.threads
    if cfg.start.get("kind") == "warm":
        cfg.start.kind, cfg.start.source = "scratch", None
    run = prepare(cfg, steps=5)
    trial_seconds = run.seconds_per_step * run.total_steps + run.seconds_per_eval * (run.evals + 1)
    n_trials, jobs = asked.limits.n_trials, asked.n_jobs
    return "\n".join([
        f"Study {asked.name}: {n_trials} trials by {_workers(asked)}",
        *(f"  {key}: {text}" for key, text in asked.space.texts().items()),
        f"a trial: {run.total_steps} steps of {run.seconds_per_step:.3g} s and {run.evals + 1} evaluations of "
        f"{run.seconds_per_eval:.3g} s, {run.tokens:,.0f} tokens, {trial_seconds:.0f} s",
        f"in all: at most {n_trials * run.tokens:,.0f} tokens and {n_trials * trial_seconds / jobs / 60:.1f} min, if "
        "nothing is pruned, without a base that is still to be trained; workers that share a machine slow each other",
    ])  # fmt: skip


def _workers(asked: Asked) -> str:
    threads = f" of {asked.threads} threads" if asked.threads else ""
    return f"{asked.n_jobs} worker{'s' * (asked.n_jobs > 1)}{threads}"


def _enqueue(asked: Asked, study: optuna.Study) -> None:
    """What is run before anything is sampled: a grid's combinations, or the present config and the known-good points.
    What a killed process has enqueued already is left as it is."""
    if asked.plan.is_grid:
        for point in asked.space.grid():
            study.enqueue_trial(asked.space.named(point), skip_if_exists=True)
        return
    points = [asked.space.named(point) for point in asked.options.enqueue]  # all checked before one is enqueued
    if asked.options.baseline and not any(BASELINE in trial.user_attrs for trial in study.trials):
        values, outside = present_values(asked.space, asked.cfg)
        if outside:
            print(f"note: the present config lies outside the space ({', '.join(outside)}); it is run all the same, as "
                  "trial 0, and the sampler does not learn from it")  # fmt: skip
            study.enqueue_trial({}, user_attrs={BASELINE: True, IS_OUTSIDE: values})
        else:
            study.enqueue_trial(asked.space.named(values), user_attrs={BASELINE: True})
    for point in points:
        study.enqueue_trial(point, skip_if_exists=True)


def _work(asked: Asked, queue: Queue, config: DictConfig, context: HydraContext) -> tuple[str, str]:
    """Status and reason of a sweep whose trials have all been run, or stopped; what it came to lies in its folder."""
    deadline = time.time() + asked.options.max_seconds if asked.options.max_seconds else None
    limits = replace(asked.limits, deadline=deadline)
    queue.stop(False)
    queue.limit(limits)
    queue.reap(is_leftover=True)
    crew = _crew(asked, queue, config, context)
    table = Table(asked.options.objectives, limits.n_trials, asked.n_jobs)
    _write_summary(asked, queue, "running")
    follower = Follower(asked.folder) if "mlflow" in asked.cfg.observers else None
    try:
        with _stoppable(crew) as is_stopping:
            trouble = _watch(asked, queue, crew, table, is_stopping)
            is_stopped = is_stopping()
    finally:
        crew.kill()
        queue.reap(is_leftover=True)
        table(facts(queue.study))
        table.close()
    why = trouble or limits.reached(queue.study.get_trials(deepcopy=False), time.time())
    has_failed = bool(trouble) or "failed" in why
    status, why = (
        ("interrupted", "stopped by a signal") if is_stopped else ("failed" if has_failed else "completed", why)
    )
    _write_results(asked, queue, status)
    if follower is not None:
        follower.close()
    return status, why


def _watch(asked: Asked, queue: Queue, crew: Crew | Launched, table: Table, is_stopping: Callable[[], bool]) -> str:
    """Show the trials and replace the workers that die, until there is nothing left to do; what went wrong, if so."""
    deaths, ended, looked_at = 0, 0, time.monotonic()
    table(facts(queue.study))  # before a launcher prints anything
    crew.start(is_served=False)
    while True:
        trials = facts(queue.study)
        table(trials)
        if is_stopping():
            crew.stop()
        dead = crew.take_dead()
        is_due = time.monotonic() - looked_at > REAP_SECONDS
        if dead or is_due:
            queue.reap(is_leftover=False)
            _write_summary(asked, queue, "running")
            looked_at = time.monotonic()
        over = sum(trial.is_over for trial in trials)
        deaths, ended = (deaths if over == ended else 0) + len(dead), over
        if deaths >= MAX_DEATHS and not is_stopping():
            return f"{deaths} workers died one after the other ({crew.last_words(dead[-1][0])})"
        if not is_stopping() and queue.has_more() and (dead or not crew.is_working):
            crew.start(is_served=any(trial.status == "running" for trial in facts(queue.study)))
        elif not crew.is_working and (is_stopping() or not queue.is_served()):
            return ""
        time.sleep(LOOK_SECONDS)


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
    return Launched(launcher, asked.n_jobs, asked.folder, partial(queue.stop, not asked.is_local))


@contextmanager
def _stoppable(crew: Crew | Launched) -> Iterator[Callable[[], bool]]:
    """A first signal ends the trials after the step under way, a second Ctrl-C at once."""
    received: list[int] = []

    def note(number: int, frame: object) -> None:
        if received and number == signal.SIGINT:
            crew.kill()
        elif not received:
            received.append(number)
            print("\nstopping after the step under way; Ctrl-C again stops at once", file=sys.stderr)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    previous = {number: signal.signal(number, note) for number in numbers}
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


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
    path = asked.folder / parent.IDENTITY
    with suppress(FileNotFoundError):
        started_at_ms = parent.identity(asked.folder)["started_at_ms"]
    record.replace(path, {
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
    record.replace(asked.folder / parent.SUMMARY, summary_json(summary, status, ended_at_ms))


def _write_results(asked: Asked, queue: Queue, status: str) -> None:
    draft = asked.folder / "optimization_results.yaml.partial"
    OmegaConf.save(OmegaConf.create(results(queue.study)), draft)
    draft.rename(asked.folder / "optimization_results.yaml")
    draw(queue.study, asked.folder / "figures")
    _write_summary(asked, queue, status)
