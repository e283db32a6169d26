"""A process that serves many trials: it claims one, runs it, tells what it came to, until the study has no more.

Started as `python -m harness.sweep.workers.worker`, with a `Post` as a line of JSON on its standard input, at whose end,
when whoever started it has died, it dies too.
"""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from harness.config.errors import ConfigError
from harness.config.schema import ROOT
from harness.config.targets import import_target
from harness.sweep.report.formatting import format_run_command
from harness.sweep.space.search_space import trial_values
from harness.sweep.study.liveness import send_heartbeats
from harness.sweep.study.pruning import report_and_prune, stop_when
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import BASELINE, RESULT, STUDY_SPEC, SWEEP_ID
from harness.sweep.study.trial_queue import TrialQueue
from harness.tracking.run_uploader import SWEEP_TAG

EXIT_OK, EXIT_CRASHED = 0, 1
WORKER_MODULE = "harness.sweep.workers.worker"


@dataclass(frozen=True)
class WorkerSpec:
    """Where a worker works: which study it serves, where its trials' folders go, and on what share of the machine."""

    study: str
    storage: str | None
    folder: str
    threads: int | None = None
    gpu: int | None = None


def spawn_worker(spec: WorkerSpec, log: Path) -> subprocess.Popen[str]:
    """A worker at `post` that lives no longer than this process; what it prints goes to `log`."""
    environment = dict(os.environ)
    if spec.gpu is not None:
        visible = environment.get("CUDA_VISIBLE_DEVICES")
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[spec.gpu] if visible else str(spec.gpu)
    if spec.threads is not None:
        environment["OMP_NUM_THREADS"] = str(spec.threads)
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER_MODULE],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            text=True,
            process_group=0,  # Ctrl-C is for the sweep, which then tells its workers
        )
    process.stdin.write(json.dumps(asdict(spec)) + "\n")
    process.stdin.flush()
    return process


def run_trials(spec: WorkerSpec, is_stopping: Callable[[], bool]) -> None:
    """Run trials until there are none left for this worker or it is asked to stop."""
    from harness.run import runner  # torch, before a trial is claimed that would wait for it

    folder = Path(spec.folder)
    queue, plan = open_queue(spec)
    while not is_stopping():
        trial = queue.claim_trial()
        if trial is None:
            return
        with send_heartbeats(queue.study._storage, trial._trial_id):
            result = _run_trial(runner.run, trial, plan, queue, spec, is_stopping)
            queue.finish_trial(trial, result, [result[name] for name in plan.objectives])
        _delete_losing_checkpoints(queue.study, folder, plan.keep)
        if result["status"] == "interrupted":
            return


def open_queue(spec: WorkerSpec) -> tuple[TrialQueue, StudySpec]:
    """The study of `post`, with the sampler, the pruner and the space that it was planned with."""
    folder = Path(spec.folder)
    storage = open_storage(spec.storage, folder)
    study = optuna.load_study(study_name=spec.study, storage=storage)
    plan = StudySpec(**study.user_attrs[STUDY_SPEC])
    study.sampler, study.pruner = plan.make_sampler(), plan.make_pruner()
    space = plan.build_search_space()
    if plan.custom_search_space is None:
        return TrialQueue(study, space, folder), plan
    extend = import_target("hydra.sweeper.custom_search_space", plan.custom_search_space)
    return TrialQueue(study, space, folder, partial(extend, space.compose_config({}))), plan


def _run_trial(
    run: Callable, trial: Trial, plan: StudySpec, queue: TrialQueue, post: WorkerSpec, is_stopping: Callable[[], bool]
) -> dict[str, Any]:
    """What the run of a trial came to, whatever happens in it."""
    folder = Path(post.folder) / str(trial.number)
    policies = [stop_when(lambda: is_stopping() or queue.is_stopping())]
    if len(plan.objectives) == 1:
        not_before = 1.0 if BASELINE in trial.user_attrs else plan.warmup_share  # what all is compared with runs whole
        policies.insert(0, report_and_prune(trial, not_before))
    tags = {SWEEP_TAG: queue.study.user_attrs[SWEEP_ID]}  # its number is its name
    try:
        values = trial_values(trial)
        cfg = queue.space.compose_config(values, ["observers=trial"])
        if cfg.device.threads is None:
            cfg.device.threads = post.threads
        chosen = {key: str(value) for key, value in values.items() if key in plan.choices}  # what cfg does not name
        sys.argv = shlex.split(format_run_command(queue.space.fixed, values))[
            1:
        ]  # what a person would type for this trial
        result = run(cfg, policies, folder=folder, tags=tags, params=chosen)
    except ConfigError as error:
        return _failed_result(str(error))
    except Exception as error:
        traceback.print_exc()
        return _failed_result(f"{type(error).__name__}: {error}")
    if not result.effective and result.status != "interrupted":  # its base came to no good end
        return _failed_result(result.reason)
    found = {name: getattr(result, name) for name in ("status", "reason", "best_val_loss", "best_step", "step",
             "tokens", "seconds")}  # fmt: skip
    in_force = {name.removeprefix("effective."): value for name, value in result.effective.items()}
    return {
        **found,
        "folder": folder.name,
        "share": _completed_share(result.step, int(in_force.get("first_step", 0)), int(in_force.get("total_steps", 0))),
        "threads": int(in_force.get("threads", 0)),
        "device": in_force.get("device", ""),
        "trainable_parameters": int(in_force.get("trainable_parameters", 0)),
    }


def _completed_share(step: int, first_step: int, total_steps: int) -> float:
    """Of the steps that the run itself was to take."""
    return (step - first_step) / (total_steps - first_step) if total_steps > first_step else 0.0


def _failed_result(reason: str) -> dict[str, Any]:
    nothing = {"best_val_loss": float("inf"), "best_step": 0, "step": 0, "tokens": 0, "seconds": 0.0, "share": 0.0}
    return {"status": "failed", "reason": reason, **nothing, "trainable_parameters": 0}


def _delete_losing_checkpoints(study: optuna.Study, folder: Path, keep: int) -> None:
    """Remove the checkpoints of the trials that have lost, as far as their folders are on this host."""
    ended = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    best = {t.number for t in sorted(complete, key=lambda t: t.user_attrs[RESULT]["best_val_loss"])[:keep]}
    if len(study.directions) > 1 and keep:
        best |= {trial.number for trial in study.best_trials}
    for trial in ended:
        checkpoints = folder / str(trial.number) / "checkpoints"
        if trial.number not in best and checkpoints.exists():
            shutil.rmtree(checkpoints, ignore_errors=True)


def main() -> int:
    post = WorkerSpec(**json.loads(sys.stdin.readline()))
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: received.append(number))
    silence_optuna()
    run_trials(post, lambda: bool(received))
    return EXIT_OK


def silence_optuna() -> None:
    """Keep Optuna from telling of each trial, of what it calls experimental, and of heartbeats without `optimize`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="Heartbeat of storage")


def _exit_with_parent() -> None:
    sys.stdin.read()
    os._exit(EXIT_CRASHED)


if __name__ == "__main__":
    sys.exit(main())
