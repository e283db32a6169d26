"""Sweeps for the kill tests: workers or the whole sweep are killed, and the same command resumes it.

Studies are read with plain Optuna, as a user's notebook would.
"""

import random
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from harness.record.metrics_file import METRICS_FILE
from harness.sweep.request import WORKER_MODULE
from harness.sweep.study.trial_attrs import RESULT, RETRIES, WORKER
from harness.sweep.study.trial_queue import WORKER_DIED
from harness.tracking.sweep_uploader import SUMMARY_FILE
from tests.systems.kill_tools import KillCase, Tally, is_alive, maps_files_below, poll_until, read_bytes, start_marked
from tests.systems.killed_runs import find_recorded_moment, has_draft, read_progress

SMALL_TRIAL = [
    "start=scratch", "lora=none", "device=cpu", "device.threads=1", "model.layers=1", "model.width=16",
    "model.heads=2", "model.dropout=0.1", "batch.batch_size=4", "data=text", r"data.source.split_on='\n\n'",
    "data.val_fraction=0.06", "data.sequence_length=32", "tokenizer=bpe", "tokenizer.vocab_size=400",
    "loop.log_every=1", "loop.evals=4", "loop.save_every=10",
]  # fmt: skip
SMALL_SWEEP = [
    *SMALL_TRIAL, "preflight=skip", "hydra.sweeper.params=null", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "loop.grad_clip=tag(log,interval(0.1,10.0))", "pruner=median", "sweep.n_jobs=2", "sweep.max_failures=null",
]  # fmt: skip
START_SECONDS = 180  # until a sweep has reached any moment, on a busy machine


@dataclass
class SweepCase(KillCase):
    """A sweep that is killed, or whose workers are; `ended` are the trials that have ended so far."""

    cache: Path
    n_trials: int
    steps: int = 120
    is_tracked: bool = False
    n_starts: int = 0
    ended: dict[int, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def sweep(self) -> Path:
        return self.folder / "outputs" / "sweeps" / "default"

    @property
    def log(self) -> Path:
        return self.folder / f"log-{self.n_starts}.txt"

    def list_places(self) -> list[str]:
        places = [f"output_dir={self.folder}/outputs", f"cache_dir={self.cache}", f"data.source.path={self.text}"]
        return [*places, f"loop.max_steps={self.steps}", f"tracking.uri=sqlite:///{self.folder}/mlflow.db"]

    def start_process(self) -> subprocess.Popen[bytes]:
        self.n_starts += 1
        options = [] if self.is_tracked else ["~observers.mlflow"]
        command = ["-m", *SMALL_SWEEP, *self.list_places(), *options, f"sweep.n_trials={self.n_trials}"]
        self.process = start_marked(command, self.log, self.marker)
        return self.process

    def read_trials(self) -> list[FrozenTrial]:
        """Return the trials of the study as plain Optuna reads them; none if there is no study yet."""
        journal = self.sweep / "study.journal"
        if not read_bytes(journal):
            return []
        storage = JournalStorage(JournalFileBackend(str(journal)))
        try:
            return optuna.load_study(study_name="default", storage=storage).trials
        except KeyError:  # created, but without the study
            return []

    def remember_ended(self, tally: Tally) -> None:
        """Compare the trials that have ended with those remembered, and remember the new ones."""
        found = {
            trial.number: (trial.state, trial.values, trial.params, trial.datetime_complete)
            for trial in self.read_trials()
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
        }
        for number, before in self.ended.items():
            if number not in found:
                tally.add_problem("lost", f"{self.folder.name}: trial {number}")
            elif found[number] != before:
                tally.add_problem("different", f"{self.folder.name}: trial {number}: {before} became {found[number]}")
        self.ended |= found

    def list_workers(self) -> list[int]:
        """Return the pids of the workers, oldest first."""
        assert self.process is not None
        try:
            children = psutil.Process(self.process.pid).children()
            return [one.pid for one in children if WORKER_MODULE in one.cmdline()]
        except psutil.Error:
            return []

    def find_open_trial(self, pid: int) -> Path | None:
        """Return the folder of the trial that a worker records."""
        try:
            links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            return None
        return next((link.parent for link in links if link.name == METRICS_FILE), None)

    def list_open_trials(self) -> dict[int, Path]:
        """Return the folders of the trials that run now, by the pid of their worker."""
        found = {pid: self.find_open_trial(pid) for pid in self.list_workers()}
        return {pid: folder for pid, folder in found.items() if folder is not None}


def find_worker_moment(case: SweepCase, pid: int) -> str:
    """Return what a killed worker was doing, from the study and the folder of its last trial."""
    own = [trial for trial in case.read_trials() if trial.user_attrs.get(WORKER, {}).get("pid") == pid]
    if not own:
        return "imports"
    trial = own[-1]
    died = trial.user_attrs.get(RESULT, {}).get("reason") == WORKER_DIED["reason"]
    if trial.state != TrialState.RUNNING and not died:
        return "between trials"
    folder = case.sweep / str(trial.number)
    if not (folder / METRICS_FILE).exists():
        return "build"
    return "telling the study" if read_progress(folder).has_ended else find_recorded_moment(folder, case.steps)


WORKER_TARGETS = {  # with the longest delay after the moment, in seconds
    "imports": 4.0, "build": 0.2, "steps": 0.3, "checkpoint": 0.0, "evaluation": 0.01, "last step": 0.06,
}  # fmt: skip


def find_victim(case: SweepCase, target: str, step: int, protected: set[int]) -> int | None:
    """Return a worker at the moment aimed at whose trial is not protected."""
    open_trials = case.list_open_trials()
    if target in ("imports", "build"):
        others = [pid for pid in case.list_workers() if pid not in open_trials]
        return next((pid for pid in others if target == "imports" or maps_files_below(pid, case.cache)), None)
    for pid, folder in open_trials.items():
        if int(folder.name) not in protected and is_trial_at(folder, target, step, case.steps):
            return pid
    return None


def is_trial_at(folder: Path, target: str, step: int, total_steps: int) -> bool:
    """Return whether a trial is at the moment aimed at, after a step."""
    now = read_progress(folder)
    if now.step < (total_steps if target == "last step" else step):
        return False
    if target == "checkpoint":
        return has_draft(folder)
    return target != "evaluation" or find_recorded_moment(folder, total_steps) == "evaluation"


def kill_worker(case: SweepCase, target: str, chance: random.Random, tally: Tally) -> None:
    """Kill a worker at the moment aimed at, unless the sweep ends before that.

    A trial whose worker died once is protected: one that kills two workers is given up, as documented.
    """
    process, step = case.process, chance.randrange(case.steps)
    assert process is not None
    protected: set[int] = set()
    looked_at, victim = 0.0, None
    while victim is None and process.poll() is None:
        if time.monotonic() - looked_at > 0.3:
            trials, looked_at = case.read_trials(), time.monotonic()
            protected = {trial.number for trial in trials if trial.user_attrs.get(RETRIES)}
        victim = find_victim(case, target, step, protected)
        time.sleep(0.001)
    time.sleep(chance.uniform(0, WORKER_TARGETS[target]))
    running = [t for t in case.read_trials() if t.state == TrialState.RUNNING] if WORKER_TARGETS[target] else []
    if any(t.user_attrs.get(RETRIES) and t.user_attrs.get(WORKER, {}).get("pid") == victim for t in running):
        return
    if victim is None or not is_alive(victim) or process.poll() is not None:
        return
    with psutil.Process(victim).oneshot():
        psutil.Process(victim).kill()
    poll_until(lambda: not is_alive(victim), 5)
    tally.moments[find_worker_moment(case, victim)] += 1


def plan_sweep_moments(chance: random.Random) -> Iterator[list[str]]:
    """Yield the moments of a sweep to aim at in each case: an early one, three during the trials, a late one."""
    middle = ["workers start", "steps", "checkpoint", "evaluation", "last step", "steps"]
    while True:
        early, late = chance.choice(["imports", "study"]), chance.choice(["results", "upload to MLflow"])
        yield [early, *chance.sample(middle, 3), late]


def wait_for_sweep_moment(case: SweepCase, target: str, chance: random.Random) -> bool:
    """Wait until the sweep is at the moment aimed at and for a random time; return whether it still runs."""
    process, step, before = case.process, chance.randrange(case.steps), read_bytes(case.sweep / "sweep.yaml")
    assert process is not None

    def is_trial_reached() -> bool:
        return any(is_trial_at(folder, target, step, case.steps) for folder in case.list_open_trials().values())

    def is_status_written() -> bool:
        return b'"status": "running"' not in (read_bytes(case.sweep / SUMMARY_FILE) or b'"status": "running"')

    targets: dict[str, tuple[Callable[[], bool], float]] = {
        "imports": (lambda: True, 5.0),
        "study": (lambda: (case.sweep / "sweep.lock").exists() and is_started(case, before), 0.2),
        "workers start": (lambda: bool(case.list_workers()), 5.0),
        "results": (lambda: has_all_trials(case), 1.0),
        "upload to MLflow": (lambda: has_all_trials(case) and is_status_written(), 3.0),
    }
    reached, delay = targets.get(target, (is_trial_reached, 0.0 if target == "checkpoint" else 0.05))
    interval = 0.1 if target in ("results", "upload to MLflow") else 0.001
    poll_until(lambda: process.poll() is not None or reached(), START_SECONDS, interval)
    if delay:
        poll_until(lambda: process.poll() is not None, chance.uniform(0, delay))
    return process.poll() is None


def is_started(case: SweepCase, description_before: bytes) -> bool:
    """Return whether the sweep has written its description, or its study where it is new."""
    path = case.sweep / ("sweep.yaml" if description_before else "study.journal")
    return bool(read_bytes(path)) and time.time() - path.stat().st_mtime < 1


def has_all_trials(case: SweepCase) -> bool:
    trials = case.read_trials()
    return len(trials) >= case.n_trials and all(trial.state.is_finished() for trial in trials)


def find_sweep_moment(case: SweepCase, n_workers: int) -> str:
    """Return what a killed sweep was doing; `n_workers` are those it had when it was killed."""
    trials = case.read_trials()
    if not n_workers:
        if trials and all(trial.state.is_finished() for trial in trials) and len(trials) >= case.n_trials:
            is_running = b'"status": "running"' in read_bytes(case.sweep / SUMMARY_FILE)
            return "results" if is_running else "upload to MLflow"
        return "imports, checks, study"
    running = [case.sweep / str(trial.number) for trial in trials if trial.state == TrialState.RUNNING]
    moments = [find_recorded_moment(folder, case.steps) for folder in running if (folder / METRICS_FILE).exists()]
    for moment in ("checkpoint", "evaluation", "last step", "steps", "first step"):
        if moment in moments:
            return moment
    return "build of a trial" if running else "workers start"
