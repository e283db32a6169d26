"""A study whose trials are runs of named configurations, each with several seeds.

It has no search space: a trial is one configuration with one seed. Its workers, retries, budget and upload are those of
a sweep, so it can be interrupted, resumed and shared by several workers like one.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from harness.core.digests import read_json
from harness.core.errors import DamageError
from harness.core.events import Status
from harness.record import metrics_file
from harness.record.sweep_files import SUMMARY_FILE
from harness.record.trial_record import Direction
from harness.sweep.options import SweepOptions
from harness.sweep.request import SweepRequest
from harness.sweep.rerun import Rerun
from harness.sweep.space.search_space import SearchSpace
from harness.sweep.study.budget import Budget
from harness.sweep.study.setup import open_study
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import open_storage
from harness.sweep.study.trial_attrs import FIXED_VALUES, RETRY_OF, SEED_RUN, has_result, read_trial_result
from harness.sweep.study_run import MakeWorkers, StudyEnd, run_trials

SAMPLER = {"_target_": "optuna.samplers.RandomSampler"}  # which is never asked
PRUNER = {"_target_": "optuna.pruners.NopPruner"}
LEAST_SECONDS = 1e-3  # of a time budget that is used up
N_CHECKPOINTS = 0  # of finished runs; the losses are what is wanted


@dataclass(frozen=True)
class SeedRun:
    """A run of the configuration `config` with a `seed`; `trial` is its number.

    `values` are by metric, and empty unless it is completed. A run that is not over has the status "running" or
    "queued".
    """

    config: str
    seed: int
    trial: int
    status: Status | str
    reason: str
    values: Mapping[str, float]
    tokens: int
    seconds: float
    folder: Path

    @property
    def is_over(self) -> bool:
        return self.status not in ("queued", "running")

    def read_loss(self, metric: str) -> float | None:
        """Return a metric; infinity for a run that diverged, and None for one without a result."""
        if self.status == "diverged":
            return math.inf
        return self.values.get(metric) if self.status == "completed" else None


@dataclass(frozen=True)
class Uploaded:
    """Metrics and tags of the runs together, which MLflow shows on their parent run.

    `notes` say in a few words what came out for each configuration.
    """

    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    notes: Mapping[str, str]


Summarize = Callable[[Sequence[SeedRun], str], Uploaded]
"""Write what follows from the runs and the status of the study, and return what MLflow shows of it."""


@dataclass(frozen=True)
class SeedStudyPlan:
    """The study of `configs`: values by key without the seed, by name. `spec` is that of the sweep they come from.

    `metric` is that of the claim, one of the objectives. `settings` are further ones that must not change once runs
    were made, for people.
    """

    name: str
    folder: Path
    storage: str | None
    spec: StudySpec
    rerun: Rerun
    configs: Mapping[str, Mapping[str, Any]]
    metric: str
    store_uri: str
    experiment: str
    is_uploaded: bool
    command: str
    settings: Mapping[str, str]
    max_seconds: float | None = None
    max_tokens: int | None = None


class SeedStudy:
    """A study of configurations over seeds."""

    def __init__(self, plan: SeedStudyPlan, summarize: Summarize) -> None:
        """Create or open the study, and queue the runs that failed again.

        Raises:
            ConfigError: If it exists with other settings or cannot be opened.
        """
        self._plan, self._summarize, self._started_at = plan, summarize, time.time()
        self.request = build_seed_request(plan)
        self._queue = open_study(self.request)
        with self._queue.hold_lock():
            for trial in self._last_attempts.values():
                if trial.state == TrialState.FAIL:
                    self._queue.requeue_trial(trial)

    def run(self, runs: Iterable[tuple[str, int]], make_workers: MakeWorkers | None = None) -> StudyEnd:
        """Run configurations with seeds, each once in the life of the study, and return how that ended.

        Args:
            make_workers: Returns the workers; by default processes on this machine.
        """
        self._queue_runs(runs)
        n_trials = sum(RETRY_OF not in trial.user_attrs for trial in self._trials)
        options = self.request.options
        if self._plan.max_seconds is not None:  # of the command, which may run the study several times
            seconds_left = self._started_at + self._plan.max_seconds - time.time()
            options = replace(options, max_seconds=max(LEAST_SECONDS, seconds_left))
        budget = replace(self.request.budget, n_trials=n_trials)
        self.request = replace(self.request, options=options, budget=budget)
        return run_trials(self.request, self._queue, self, make_workers)

    def list_runs(self) -> list[SeedRun]:
        """Return the last attempt at each run, in the order in which they were queued."""
        return [self._describe_run(trial) for trial in self._last_attempts.values()]

    def write_summary(self, status: str) -> None:
        runs = self.list_runs()
        uploaded = self._summarize(runs, status)
        metric = self._plan.metric
        ended = [run for run in runs if run.is_over]
        history = [
            [run.trial, {f"{run.config}/{metric}": run.values[metric]}, self._ended_at_ms(run.trial)]
            for run in sorted(ended, key=lambda run: self._ended_at_ms(run.trial))
            if math.isfinite(run.values.get(metric, math.nan))
        ]
        metrics_file.write_json(self.request.folder / SUMMARY_FILE, {
            "status": status,
            "ended_at_ms": None if status == "running" else time.time_ns() // 1_000_000,
            "objectives": dict(zip(self.request.spec.objectives, self.request.spec.directions, strict=True)),
            "metrics": dict(uploaded.metrics),
            "tags": {"study": self._plan.name, "status": status, **uploaded.tags},
            "history": history,
            "groups": {
                config: {"note": note, "trials": [str(run.trial) for run in runs if run.config == config]}
                for config, note in uploaded.notes.items()
            },
        })  # fmt: skip

    def write_files(self, status: str) -> None:
        self.write_summary(status)

    def print_results(self, status: str) -> None:
        """Print nothing: who asked for the runs prints what follows from all of them."""

    def are_written(self) -> bool:
        try:
            written = read_json(self.request.folder / SUMMARY_FILE)
        except (OSError, DamageError):
            return False
        return written.get("status") == "completed" and all(run.is_over for run in self.list_runs())

    @property
    def _last_attempts(self) -> dict[tuple[str, int], FrozenTrial]:
        """The last attempt at each run, by configuration and seed."""
        runs = [(trial, trial.user_attrs[SEED_RUN]) for trial in self._trials]
        return {(run["config"], run["seed"]): trial for trial, run in runs}

    @property
    def _trials(self) -> list[FrozenTrial]:
        trials = self._queue.study.get_trials(deepcopy=False)
        return [trial for trial in trials if SEED_RUN in trial.user_attrs]

    def _queue_runs(self, runs: Iterable[tuple[str, int]]) -> None:
        with self._queue.hold_lock():
            known = {(run.config, run.seed) for run in self.list_runs()}
            for config, seed in runs:
                if (config, seed) in known:
                    continue
                values = {**self._plan.configs[config], self._plan.rerun.seed_key: seed}
                attrs = {FIXED_VALUES: values, SEED_RUN: {"config": config, "seed": seed}}
                self._queue.study.enqueue_trial({}, user_attrs=attrs)

    def _describe_run(self, trial: FrozenTrial) -> SeedRun:
        result, run = read_trial_result(trial), trial.user_attrs[SEED_RUN]
        is_completed = trial.state == TrialState.COMPLETE
        status = {TrialState.WAITING: "queued", TrialState.RUNNING: "running"}.get(trial.state)
        return SeedRun(
            config=run["config"],
            seed=run["seed"],
            trial=trial.number,
            status=status or ("completed" if is_completed else str(result.get("status", "failed"))),
            reason=str(result.get("reason", "")),
            values=dict(zip(self.request.spec.objectives, trial.values, strict=True)) if is_completed else {},
            tokens=int(result.get("tokens", 0)),
            seconds=float(result.get("seconds") or 0.0),
            folder=self.request.folder / str(trial.number),
        )

    def _ended_at_ms(self, number: int) -> int:
        ended = self._queue.study.get_trials(deepcopy=False)[number].datetime_complete
        return round(1000 * ended.timestamp()) if ended else 0


def build_seed_request(plan: SeedStudyPlan) -> SweepRequest:
    """Return the request of a study without a search space."""
    rerun, sweep = plan.rerun, plan.spec
    test: list[str] = [rerun.test_metric] if rerun.test_metric else []
    directions: list[Direction] = list(sweep.directions)
    space = SearchSpace({}, {}, sweep.build_search_space().group_options)
    spec = StudySpec(
        program=sweep.program,
        space=space.to_json(),
        custom_search_space=None,
        objectives=[*sweep.objectives, *test],
        directions=[*directions, *(directions[:1] if test else [])],
        sampler=SAMPLER,
        pruner=PRUNER,
        seed=0,
        warmup_share=1.0,
        keep=N_CHECKPOINTS,
        config={**sweep.config, **plan.settings},
        digits=sweep.digits,
    )
    return SweepRequest(
        options=SweepOptions(
            n_jobs=rerun.workers.n_jobs,
            storage=plan.storage,
            objectives=list(spec.objectives),
            max_seconds=plan.max_seconds,
            baseline=False,
        ),
        spec=spec,
        program=rerun.program,
        space=space,
        budget=Budget(n_trials=0, max_tokens=plan.max_tokens, max_failures=3),
        study_name=plan.name,
        folder=plan.folder,
        workers=rerun.workers,
        store_uri=plan.store_uri,
        is_uploaded=plan.is_uploaded,
        experiment=plan.experiment,
        command_line=rerun.command_line,
        command=plan.command,
        description=dict(plan.settings),
        current_values={},
        n_points=None,
        notices=rerun.notices,
        new_study_remedy="fix the cause and run the same command, which makes failed runs again",
        more_time_remedy="raise --max-seconds",
        more_runs_remedy="raise --max-tokens",
        has_best=False,
    )


def set_aside_unseen_study(plan: SeedStudyPlan) -> bool:
    """Move a study away in which no run has a result or is running, and return whether it was moved.

    Whoever has seen no loss may choose another plan.
    """
    storage = open_storage(plan.storage, plan.folder)
    study = optuna.load_study(study_name=plan.name, storage=storage)
    if any(has_result(trial) or trial.state == TrialState.RUNNING for trial in study.get_trials(deepcopy=False)):
        return False
    if plan.storage:
        optuna.delete_study(study_name=plan.name, storage=storage)
    names = (plan.folder.with_name(f"{plan.folder.name}-without-result-{number}") for number in itertools.count(1))
    plan.folder.rename(next(path for path in names if not path.exists()))
    return True
