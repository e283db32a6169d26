"""Read what a sweep over an app should do from its composed configuration and the command line."""

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf

from harness.config.validation import check_writable
from harness.core.errors import ConfigError
from harness.sweep.programs import HYDRA_APP
from harness.sweep.programs.custom_space import check_custom_space
from harness.sweep.programs.directions import note_doubtful_direction
from harness.sweep.programs.hydra_app.app_command import AppCommand, explain_missing_command
from harness.sweep.programs.hydra_app.app_space import (
    apply_fixed_overrides,
    check_jobs_compose,
    compose_job,
    has_value,
    list_fixed_settings,
    read_app_overrides,
    read_current_values,
)
from harness.sweep.programs.hydra_app.command_line import read_app_command_line
from harness.sweep.programs.hydra_app.options import AppOptions, read_app_options
from harness.sweep.programs.hydra_app.sweep_dir import find_sweep_dir
from harness.sweep.request import (
    BASIC_LAUNCHER,
    SweepRequest,
    WorkerPlan,
    check_enqueued_points,
    check_launcher,
    check_not_torchrun,
    check_sampler_and_pruner,
    count_space_points,
    list_gpus,
    plan_budget,
    plan_workers,
)
from harness.sweep.space.search_space import SearchSpace, read_search_space
from harness.sweep.study.spec import StudySpec
from harness.tracking.store_uri import program_store_uri

SWEPT_SPACE, SWEPT_CONFIG = "space", "config"
"""Keys of a program that runs configurations of a sweep again: the search space and the settings of that sweep."""


def read_app_request(
    config: DictConfig, context: HydraContext, arguments: Sequence[str], command: AppCommand | None
) -> SweepRequest:
    """Return the request of an app's composed `config`, which includes the `hydra` node, and the overrides `arguments`.

    Args:
        command: Starts the app again, as a worker; None if it can only run in this process.

    Raises:
        ConfigError: If a problem shows before anything is written.
    """
    options = read_app_options(config)
    overrides = read_app_overrides(options.sweeper["params"] or {}, arguments)
    missing_command = "" if command else explain_missing_command(config)
    config = apply_fixed_overrides(config, context.config_loader, overrides)
    command_line = read_app_command_line(config, context.config_loader, command, *overrides)
    check_not_torchrun(command_line.command)
    choices: Any = OmegaConf.to_container(config.hydra.runtime.choices)  # that of a group may be missing: "???"
    options_by_group = {group: choice for group, choice in choices.items() if isinstance(choice, str)}
    space = read_search_space(overrides.ranges, options.sweep.conditional, options_by_group)
    spec = _build_spec(options, space, list_fixed_settings(config, space))
    check_sampler_and_pruner(spec, "hydra.sweeper.pruner", str(options.sweeper.get("pruner")))
    check_jobs_compose(context.config_loader, config, space, overrides.fixed)
    suggested: dict[str, Any] = {}  # an example of what the user's function adds, if there is one
    if custom := spec.custom_search_space:

        def compose(values: Mapping[str, Any]) -> None:
            suggested.update({key: value for key, value in values.items() if key not in space.searched_keys})
            compose_job(context.config_loader, config, values, overrides.fixed)

        check_custom_space(custom, space, config, overrides.fixed, compose)
    check_enqueued_points(options.sweep, space)
    current_values = read_current_values(config, space)
    unknown = {key for key in suggested if not has_value(config, key)} | space.searched_keys - current_values.keys()
    options, notices = _decide_baseline(options, unknown)
    launcher = choices.get("hydra/launcher", BASIC_LAUNCHER)
    check_launcher(launcher, config.hydra.launcher, options.sweep)
    if command is None:
        _check_one_process(options.sweep.devices_per_trial, missing_command)
        notices += _explain_lack_of_workers(missing_command, launcher, options.sweep.n_jobs or 1)
    study_name = options.sweep.study or config.hydra.job.name
    return SweepRequest(
        options=options.sweep,
        spec=spec,
        program={"command_line": command_line.to_json(), "missing_command": missing_command, "unset": sorted(unknown)},
        space=space,
        budget=plan_budget(options.sweep, spec, space, current_values, options.max_failure_rate),
        study_name=study_name,
        folder=check_writable("hydra.sweep.dir", find_sweep_dir(config, study_name)),
        workers=_plan_app_workers(launcher, options, command),
        store_uri=_read_store_uri(options.sweeper.get("mlflow_uri")),
        is_uploaded=options.sweeper.get("mlflow") is not False,
        experiment=_find_experiment(options.sweeper.get("mlflow_experiment"), config.hydra.job.name),
        command_line=command_line,
        command=command_line.command,
        description={"app": config.hydra.job.name},
        current_values=current_values,
        n_points=count_space_points(spec, space),
        notices=(*notices, *_list_doubtful_directions(spec)),
    )


def _list_doubtful_directions(spec: StudySpec) -> Iterator[str]:
    """Yield notes on objectives whose names contradict their directions; a value without a name has none."""
    for index, (metric, direction) in enumerate(zip(spec.objectives, spec.directions, strict=True)):
        changed: list[str] = [*spec.directions]
        changed[index] = "minimize" if direction == "maximize" else "maximize"
        value = f"[{','.join(changed)}]" if changed[1:] else changed[0]
        if note := note_doubtful_direction(metric, direction, f"set hydra.sweeper.direction={value}"):
            yield note


def _build_spec(options: AppOptions, space: SearchSpace, settings: Mapping[str, str]) -> StudySpec:
    """Return the settings of the study; `settings` are those of the app."""
    return StudySpec(
        program=HYDRA_APP,
        space=space.to_json(),
        custom_search_space=options.sweeper["custom_search_space"],
        objectives=options.sweep.objectives,
        directions=options.directions,
        sampler=options.sweeper["sampler"],
        pruner=options.pruner,
        seed=0,
        warmup_share=0.0,
        keep=options.sweep.keep,
        max_disk=options.sweep.max_disk,
        config=settings,
    )


def _decide_baseline(options: AppOptions, unknown: set[str]) -> tuple[AppOptions, tuple[str, ...]]:
    """Leave out trial 0, the current configuration, if a searched key has no value there; return a note on that."""
    if not unknown or not options.sweep.baseline:
        return options, ()
    note = f"the configuration has no value for {', '.join(sorted(unknown))}, so it is not run as trial 0"
    return replace(options, sweep=replace(options.sweep, baseline=False)), (note,)


def _explain_lack_of_workers(missing_command: str, launcher: str, n_jobs: int) -> tuple[str, ...]:
    """Return a note if workers were asked for that cannot be started, and why."""
    asked = {f"hydra/launcher={launcher}": launcher != BASIC_LAUNCHER, f"hydra.sweeper.n_jobs={n_jobs}": n_jobs > 1}
    if not any(asked.values()):
        return ()
    settings = ", ".join(setting for setting, is_asked in asked.items() if is_asked)
    return (f"{settings}: the trials run in this process one after another ({missing_command})",)


def _check_one_process(n_devices: int | None, missing_command: str) -> None:
    """Check that trials that run in this process are not to have several devices.

    Raises:
        ConfigError: If they are.
    """
    if n_devices is not None and n_devices > 1:
        raise ConfigError(
            f"sweep.devices_per_trial: {n_devices}: torchrun cannot start this app, whose trials run in this process "
            f"({missing_command}); start the sweep as python app.py -m ..."
        )


def _plan_app_workers(launcher: str, options: AppOptions, command: AppCommand | None) -> WorkerPlan:
    """Plan workers for the GPUs if the app has imported torch, or else one."""
    devices = options.sweep.devices_per_trial
    gpus = list_gpus() if command and ("torch" in sys.modules or devices) else []
    return plan_app_workers(
        launcher,
        options.sweep.n_jobs if command else 1,
        gpus,
        command.to_list() if command else [sys.executable],
        os.getcwd(),
        devices,
    )


def plan_app_workers(
    launcher: str,
    n_jobs: int | None,
    gpus: Sequence[str],
    command: Sequence[str],
    cwd: str,
    devices_per_trial: int | None,
) -> WorkerPlan:
    """Plan `n_jobs` workers, by default as many as there are GPUs for, or else one.

    Raises:
        ConfigError: If a trial needs more GPUs than there are, or torch to start its processes.
    """
    n_devices = devices_per_trial or 1
    if n_devices > 1 and importlib.util.find_spec("torch") is None:
        raise ConfigError(f"sweep.devices_per_trial: {n_devices}: torch, which starts the processes, is not installed")
    n_jobs = n_jobs or len(gpus) // n_devices or 1
    plan = plan_workers(launcher, n_jobs, gpus, command, cwd, devices_per_trial)
    return replace(plan, n_threads=None) if n_jobs == 1 or "OMP_NUM_THREADS" in os.environ else plan


def _read_store_uri(given: str | None) -> str:
    try:
        return program_store_uri(given or None)
    except ValueError as error:
        raise ConfigError(f"hydra.sweeper.mlflow_{error}" if given else str(error)) from error


def _find_experiment(given: str | None, job_name: str) -> str:
    return given or os.environ.get("MLFLOW_EXPERIMENT_NAME") or job_name
