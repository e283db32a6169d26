"""The request for a sweep, whichever program its trials run."""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from harness.core.credentials import hide_credentials, hide_nested_secrets
from harness.core.errors import ConfigError
from harness.core.paths import module_command, project_dir
from harness.core.threads import count_cores
from harness.sweep.options import DEFAULT_N_TRIALS, MAX_TRIALS, SweepOptions
from harness.sweep.space.search_space import SearchSpace, baseline_values
from harness.sweep.study.budget import Budget
from harness.sweep.study.spec import StudySpec
from harness.sweep.trial_runner import CommandLine

MAX_DEFAULT_JOBS = 4  # with more workers, the sampler knows fewer results when it proposes
WORKER_MODULE = "harness.sweep.programs.worker"
BASIC_LAUNCHER = "basic"  # our own worker pool
LOCAL_LAUNCHERS = (BASIC_LAUNCHER, "joblib", "submitit_local")  # launchers whose workers run on this machine


@dataclass(frozen=True)
class WorkerPlan:
    """The workers of a sweep, and what each of them gets of this machine.

    `n_threads` is per process of a trial. It is None if the launcher's machines are unknown; `gpus` are the ids of
    those for all workers, and then none. `devices_per_trial` is None if the user has set no number. A trial runs in
    its worker, or in `n_processes` that torchrun starts.
    `command` starts a worker process in the folder `cwd`.
    """

    launcher: str
    is_local: bool
    n_jobs: int
    n_threads: int | None
    gpus: Sequence[str]
    command: Sequence[str]
    cwd: str
    devices_per_trial: int | None = None
    n_processes: int = 1

    def __str__(self) -> str:
        each = " each" * (self.n_jobs > 1)
        threads = f"{self.n_threads} thread{'s' * (self.n_threads > 1)}" if self.n_threads else ""
        parts = [threads + each if threads else ""]
        if (n_devices := self.devices_per_trial or 1) > 1:
            parts = [f"{n_devices} devices{each}", threads and f"{threads} per device"]
        resources = " and ".join(filter(None, parts))
        return f"{self.n_jobs} worker{'s' * (self.n_jobs > 1)}" + (f" with {resources}" if resources else "")


@dataclass(frozen=True)
class SweepRequest:
    """Everything a sweep needs to know.

    `program` is plain data that its runner needs to run trials. `options.storage` and `store_uri`, the MLflow store,
    are addresses with their credentials, which `spec` does not have; `is_uploaded` says whether trials go there during
    the sweep. `current_values` are those of the searched keys in a run without values of a trial, as far as they are
    known. `n_points` is the number of points of a finite search space. `command` is the user's, `description` holds
    more settings of the sweep, and `notices` are messages about what is searched, all for people. The remedies are for
    a study without any result, for one without time, and for one without budget, if its limit is not one of the
    options; `has_best` says that trials compete. `range_test` is the file of that of the current configuration, if it
    is known.
    """

    options: SweepOptions
    spec: StudySpec
    program: Mapping[str, Any]
    space: SearchSpace
    budget: Budget
    study_name: str
    folder: Path
    workers: WorkerPlan
    store_uri: str
    is_uploaded: bool
    experiment: str
    command_line: CommandLine
    command: str
    description: Mapping[str, Any]
    current_values: Mapping[str, Any]
    n_points: int | None
    notices: tuple[str, ...]
    new_study_remedy: str = field(default="fix the cause and choose another sweep.study", kw_only=True)
    has_best: bool = field(default=True, kw_only=True)
    range_test: Path | None = field(default=None, kw_only=True)
    more_time_remedy: str = field(default="raise sweep.max_seconds", kw_only=True)
    more_runs_remedy: str = field(default="", kw_only=True)

    def hide_program_secrets(self) -> Mapping[str, Any]:
        """Return `program` with *** for its secrets, for a file."""
        return cast(Mapping[str, Any], hide_nested_secrets(self.program))

    @property
    def has_baseline(self) -> bool:
        """Return whether trial 0 is the current configuration, which a grid leaves out."""
        return self.options.baseline and not self.spec.is_grid

    def describe_size(self) -> str:
        """Return the study, its budget, its workers and its folder in one line."""
        return f"Study {self.study_name}: {self.budget.describe_size()} by {self.workers}, in {self.folder}"


def plan_workers(
    launcher: str,
    n_jobs: int | None,
    gpus: Sequence[str],
    command: Sequence[str] | None = None,
    cwd: str | None = None,
    devices_per_trial: int | None = None,
) -> WorkerPlan:
    """Plan `n_jobs` workers, by default as many as there are devices for, where two cores count as one without GPUs.

    Without a `command` they run our own worker module.

    Raises:
        ConfigError: If a trial needs more GPUs than there are.
    """
    is_local = launcher in LOCAL_LAUNCHERS
    gpus = gpus if is_local else ()
    n_devices = devices_per_trial or 1
    if gpus and n_devices > len(gpus):
        raise ConfigError(
            f"sweep.devices_per_trial: {n_devices}: this machine has {len(gpus)} GPU{'s' * (len(gpus) > 1)}; lower it, "
            "or hide the GPUs with CUDA_VISIBLE_DEVICES= to use processes on the CPU"
        )
    n_jobs = n_jobs or len(gpus) // n_devices or max(1, min(count_cores() // (2 * n_devices), MAX_DEFAULT_JOBS))
    return WorkerPlan(
        launcher=launcher,
        is_local=is_local,
        n_jobs=n_jobs,
        n_threads=max(1, count_cores() // (n_jobs * n_devices)) if is_local else None,
        gpus=gpus,
        command=command or module_command(WORKER_MODULE),
        cwd=cwd or str(project_dir()),
        devices_per_trial=devices_per_trial,
        n_processes=n_devices,
    )


def list_gpus() -> list[str]:
    """Return the ids of the NVIDIA GPUs that processes of the user see, without loading torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        ids = [one.strip() for one in visible.split(",")]
        return [one for one in ids if one not in ("", "-1")]
    return [str(index) for index, _ in enumerate(Path("/proc/driver/nvidia/gpus").glob("*"))]


def check_launcher(launcher: str, settings: Mapping[str, Any], options: SweepOptions) -> None:
    """Check what a launcher needs to know: the number of workers, no password that it would write, and enough GPUs.

    `settings` are those of hydra.launcher.
    """
    if launcher not in LOCAL_LAUNCHERS and options.n_jobs is None:
        raise ConfigError(f"sweep.n_jobs: hydra/launcher={launcher} runs on other machines; set the number of workers")
    storage = options.storage or ""
    if launcher.startswith("submitit") and hide_credentials(storage) != storage:
        raise ConfigError(
            f"sweep.storage: {hide_credentials(storage)}: hydra/launcher={launcher} writes the address to files of its "
            "jobs; put the password into ~/.pgpass or PGPASSWORD instead"
        )
    n_devices = options.devices_per_trial or 1
    n_gpus = settings.get("gpus_per_node")
    if isinstance(n_gpus, int) and n_gpus < n_devices:
        raise ConfigError(
            f"hydra.launcher.gpus_per_node: {n_gpus}: sweep.devices_per_trial={n_devices} needs more; set "
            f"hydra.launcher.gpus_per_node={n_devices}"
        )
    for key in ("nodes", "tasks_per_node"):
        if n_devices > 1 and settings.get(key) not in (None, 1):
            raise ConfigError(
                f"hydra.launcher.{key}: {settings[key]}: a job of a sweep is one task, which starts the processes of "
                "its trials on its node; leave it out"
            )


def check_not_torchrun(command: str) -> None:
    """Check that torchrun does not start the sweep `command` several times."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        raise ConfigError(
            f"WORLD_SIZE={size}: every process would start its own sweep; start `{command}` once without "
            "torchrun, and set the number of workers with sweep.n_jobs"
        )


def check_enqueued_points(options: SweepOptions, space: SearchSpace) -> None:
    """Check that the points of sweep.enqueue are in the space."""
    for point in options.enqueue:
        try:
            space.to_trial_params(point)
        except ConfigError as error:
            raise ConfigError(f"sweep.enqueue: {error}") from error


def check_sampler_and_pruner(spec: StudySpec, key: str, pruner: str) -> None:
    """Build the sampler and the pruner, which is set by `key=pruner`, and check that they suit the objectives."""
    spec.make_sampler()
    spec.make_pruner()
    if len(spec.objectives) > 1 and not str(spec.pruner.get("_target_")).endswith("NopPruner"):
        objectives = ", ".join(spec.objectives)
        raise ConfigError(f"{key}={pruner}: Optuna cannot prune with several objectives ({objectives}); use {key}=none")


def plan_budget(
    options: SweepOptions,
    spec: StudySpec,
    space: SearchSpace,
    current_values: Mapping[str, Any],
    max_failure_rate: float | None,
) -> Budget:
    """Return the budget of a sweep. Each point of a finite space is run once, and the current config."""
    return Budget(
        n_trials=_count_trials(options, spec, space, current_values),
        runs=options.runs,
        max_tokens=options.max_tokens,
        patience=options.patience,
        max_failures=options.max_failures,
        max_failure_rate=max_failure_rate,
    )


def _count_trials(options: SweepOptions, spec: StudySpec, space: SearchSpace, current_values: Mapping[str, Any]) -> int:
    """Return the most trials that the sweep may start."""
    if spec.is_grid:
        n_grid = len(space.list_grid_points())
        return min(options.n_trials or n_grid, n_grid)
    n_trials = options.n_trials or DEFAULT_N_TRIALS
    if options.n_trials is None and options.runs is not None:
        n_trials = math.ceil(options.runs / min(spec.list_rungs(), default=1.0))
    elif options.n_trials is None and options.max_tokens is not None:
        n_trials = MAX_TRIALS
    n_points = count_space_points(spec, space)
    if n_points is None:
        return n_trials
    is_outside = options.baseline and bool(baseline_values(space, current_values)[1])
    return min(n_trials, n_points + is_outside)


def count_space_points(spec: StudySpec, space: SearchSpace) -> int | None:
    """Return the number of points of a finite space, which no function of the user extends; else None."""
    return None if spec.custom_search_space else space.count_points()
