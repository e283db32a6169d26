"""Read what a sweep should do from the configuration and the command line."""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.config.alternatives import read_given_settings
from harness.config.compose import (
    NON_TRAINING_KEYS,
    check_compositions,
    contains_key,
    flatten_config,
    list_search_path_overrides,
    without_sweep_keys,
)
from harness.config.locks import check_locked
from harness.config.option_values import LeftOut
from harness.config.overrides import check_no_credentials
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import check_writable, validate_config
from harness.core.credentials import hide_credentials
from harness.core.errors import ConfigError
from harness.core.paths import config_dir, run_command
from harness.record.sweep_files import STUDIES_FOLDER, name_study_folder
from harness.run.notices import describe_choices
from harness.sweep.options import DEFAULT_N_TRIALS, SweepOptions, read_sweep_options
from harness.sweep.space.file_ranges import fit_file_ranges
from harness.sweep.space.range_syntax import explain_number_error
from harness.sweep.space.search_space import TRIAL_DEFAULTS, SearchSpace, range_ends, read_search_space
from harness.sweep.space.usual_lrs import describe_unusual_lrs
from harness.sweep.space.validation import baseline_values
from harness.sweep.study.budget import Budget
from harness.sweep.study.custom_space import check_custom_space
from harness.sweep.study.spec import StudySpec
from harness.sweep.workers.worker_pool import count_cores
from harness.tracking.store_uri import check_database_driver

# Sections of the configuration in which trials of one study may differ.
UNCOMPARED_SECTIONS = (*NON_TRAINING_KEYS, "device")

MAX_DEFAULT_JOBS = 4  # with more workers, the sampler knows fewer results when it proposes
LOCAL_LAUNCHERS = ("basic", "joblib", "submitit_local")  # launchers whose workers run on this machine

PreflightMode = Literal["stop", "warn", "skip"]


@dataclass(frozen=True)
class SweepRequest:
    """Everything a sweep needs to know.

    `cfg` is the current configuration, that of a trial without parameters. `store_uri` and `options.storage` are
    addresses with their credentials, which `cfg` and `spec` do not have. `n_threads` is per worker and None if the
    launcher's machines are unknown; `n_gpus` is for all workers and then 0.
    """

    cfg: DictConfig
    options: SweepOptions
    spec: StudySpec
    space: SearchSpace
    budget: Budget
    study_name: str
    store_uri: str | None
    folder: Path
    launcher: str
    preflight: PreflightMode
    is_local: bool
    n_jobs: int
    n_threads: int | None
    n_gpus: int
    n_points: int | None
    """Number of points of a finite search space."""
    notices: tuple[str, ...]
    """Messages for the user about what is searched."""


def compose_sweep_request(overrides: Sequence[str]) -> SweepRequest:
    """Return the request of `python run.py -m OVERRIDES`."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        config = compose("config", fixed, return_hydra_config=True)
    return read_sweep_request(config, [override for override in overrides if not override.startswith("hydra")])


def read_sweep_request(config: DictConfig, arguments: Sequence[str]) -> SweepRequest:
    """Return the request of a composed `config`, which includes the `hydra` node, and the overrides `arguments`.

    Raises:
        ConfigError: If a problem shows before anything is built.
    """
    _check_not_torchrun()
    sweeper = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweeper, resolve=True))
    options = read_sweep_options(config, sweeper, arguments)
    if options.storage:
        check_database_driver("sweep.storage", options.storage)
    choices = {group: choice for group, choice in config.hydra.runtime.choices.items() if isinstance(choice, str)}
    params = {str(key): value for key, value in (sweeper["params"] or {}).items()}
    arguments, notices = _complete_arguments(config, arguments)
    fitted = fit_file_ranges(params, options.conditional, arguments, choices)
    space = read_search_space(fitted.params, arguments, fitted.conditional, choices)
    options = replace(options, allow=_select_allowed(options.allow, arguments, space))
    if not space.ranges and not any(space.conditional.values()) and not sweeper["custom_search_space"]:
        raise ConfigError(_explain_empty_space(params, arguments, choices))
    cfg = space.compose_config({}, TRIAL_DEFAULTS)
    ranges = [f"{key}={value}" for part in (fitted.params, *fitted.conditional.values()) for key, value in part.items()]
    check_locked(cfg, [*arguments, *ranges])
    output_dir = _read_output_dir(cfg)
    _check_shared_best(cfg)
    study_name = options.study or _default_study_name(choices)
    spec = StudySpec(
        params=fitted.params,
        arguments=arguments,
        conditional=fitted.conditional,
        custom_search_space=sweeper["custom_search_space"],
        choices=choices,
        objectives=options.objectives,
        directions=["minimize"] * len(options.objectives),
        sampler=sweeper["sampler"],
        pruner=cast(dict[str, Any], OmegaConf.to_container(config.pruner, resolve=True)),
        seed=cfg.seed,
        warmup_share=0.0,
        keep=options.keep,
        config=_fixed_settings(cfg, space),
    )
    _check_study_spec(spec, choices.get("pruner", ""), space)
    _check_enqueued_points(options, space)
    _check_preflight_mode(config.preflight)
    launcher = choices.get("hydra/launcher", "basic")
    _check_launcher(launcher, options)
    return SweepRequest(
        cfg=cfg,
        options=options,
        spec=spec,
        space=space,
        budget=_build_budget(options, sweeper, count_trials(options, spec, space, cfg)),
        study_name=study_name,
        store_uri=_find_store_uri(config.get("observers")),
        folder=_choose_folder(config, output_dir, study_name),
        launcher=launcher,
        preflight=config.preflight,
        **_plan_workers(launcher, options, cfg),
        n_points=None if spec.custom_search_space else space.count_points(),
        notices=(*notices, *fitted.notices, *_describe_space(space, params, cfg, arguments)),
    )


def _check_preflight_mode(mode: str) -> None:
    if mode not in get_args(PreflightMode):
        raise ConfigError(f"preflight: {mode!r} must be one of {', '.join(get_args(PreflightMode))}")


def _read_output_dir(cfg: DictConfig) -> Path:
    """Return the output_dir of a valid configuration.

    Raises:
        ConfigError: If it is not valid; a text in place of a number may have been meant as a range.
    """
    try:
        return validate_config(cfg).output_dir
    except ConfigError as error:
        raise ConfigError(explain_number_error(str(error))) from error


def _explain_empty_space(params: Mapping[str, Any], arguments: Sequence[str], choices: Mapping[str, str]) -> str:
    """Return why there is nothing to search, and what to do about it."""
    fixed = [argument for argument in arguments if argument.partition("=")[0] in params]
    example = "give a range, such as 'optimizer.lr=log(1e-4,1e-1)'"
    if not fixed:
        return f"nothing to search: sweeps={choices.get('sweeps')} has no ranges; {example}"
    several = "fix all ranges" if fixed[1:] else "fixes the only range"
    return f"nothing to search: {' '.join(fixed)} {several} of sweeps={choices.get('sweeps')}; {example}"


def _find_store_uri(observers: Any) -> str | None:
    """Return the address that the MLflow observer is given; the trials' own observers have been checked already."""
    mlflow = observers.get("mlflow") if isinstance(observers, DictConfig) else None
    return mlflow.get("uri") if isinstance(mlflow, DictConfig) else None


def _check_launcher(launcher: str, options: SweepOptions) -> None:
    if launcher not in LOCAL_LAUNCHERS and options.n_jobs is None:
        raise ConfigError(f"sweep.n_jobs: hydra/launcher={launcher} runs on other machines; set the number of workers")
    storage = options.storage or ""
    if launcher.startswith("submitit") and hide_credentials(storage) != storage:
        raise ConfigError(
            f"sweep.storage: {hide_credentials(storage)}: hydra/launcher={launcher} writes the address to files of its "
            "jobs; put the password into ~/.pgpass or PGPASSWORD instead"
        )


def _complete_arguments(config: DictConfig, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the arguments as the study stores them, with what a sweep that resumes a run needs, and a note on that."""
    arguments = make_overrides_absolute(arguments, *make_paths_absolute(config))
    for argument in arguments:
        check_no_credentials(argument, "the study")
    arguments = [*list_search_path_overrides(config.hydra), *map(hide_credentials, arguments)]
    start, key = config.start, "start.restart_schedule"
    if start.kind != "resume" or start.get("restart_schedule", False) or key in read_given_settings(arguments):
        return arguments, []
    reason = "otherwise every trial would inherit the best loss of the resumed run"
    return [*arguments, f"{key}=true"], [f"{key}=true is set, because {reason}"]


def _describe_space(
    space: SearchSpace, params: Mapping[str, Any], cfg: DictConfig, arguments: Sequence[str]
) -> list[str]:
    """Return notes on what a space made of the ranges `params` of a file searches, and what it does not."""
    given, options = read_given_settings(arguments), space.group_options
    kept = [group for group in params if group in options and given.get(group) == options[group]]
    kept = kept if cfg.start.kind == "resume" else []
    return [
        *(f"{group} is not searched: the resumed run keeps {group}={options[group]}" for group in kept),
        *describe_unusual_lrs(space),
        *describe_choices(cfg, ["-m", *arguments], _list_other_options(space)),
    ]


def _list_other_options(space: SearchSpace) -> list[LeftOut]:
    """Return the values of the experiment that some option of the space replaces with its own."""
    searched = {key: range_ends(dist) for key, dist in space.ranges.items() if key in space.group_options}
    points: list[dict[str, str]] = [{}, *({key: option} for key, options in searched.items() for option in options)]
    parts: list[LeftOut] = []
    for point in points:
        with suppress(HydraException, ValueError):  # what is wrong with an option is reported when the bounds are built
            parts += space.list_left_out(point, TRIAL_DEFAULTS)
    return parts


def _select_allowed(allow: list[str], arguments: Sequence[str], space: SearchSpace) -> list[str]:
    """Return the keys of sweep.allow; a file may list keys that this sweep does not search."""
    if "sweep.allow" in read_given_settings(arguments):
        return allow
    return [name for name in allow if any(contains_key(name, key) for key in space.searched_keys)]


def _plan_workers(launcher: str, options: SweepOptions, cfg: DictConfig) -> dict[str, Any]:
    """Return the number of workers, and what each of them gets of this machine."""
    is_local = launcher in LOCAL_LAUNCHERS
    n_gpus = torch.cuda.device_count() if is_local and cfg.device.kind in ("auto", "cuda") else 0
    n_jobs = options.n_jobs or n_gpus or max(1, min(count_cores() // 2, MAX_DEFAULT_JOBS))
    n_threads = max(1, count_cores() // n_jobs) if is_local else None
    return {"is_local": is_local, "n_jobs": n_jobs, "n_threads": n_threads, "n_gpus": n_gpus}


def _check_shared_best(cfg: DictConfig) -> None:
    if cfg.start.kind == "resume" and not cfg.start.restart_schedule:
        raise ConfigError(
            "start.restart_schedule: false: every trial would inherit the best loss of the resumed run; "
            "use start.restart_schedule=true"
        )


def _choose_folder(config: DictConfig, output_dir: Path, study_name: str) -> Path:
    """Return the sweep's folder: hydra.sweep.dir if it was set, relative to the current folder as in Hydra.

    Raises:
        ConfigError: If it cannot be written to, or folders of trials would get other names than their numbers.
    """
    shipped = yaml.safe_load((config_dir() / "config.yaml").read_text())["hydra"]["sweep"]
    given = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweep, resolve=False))
    if given["subdir"] != shipped["subdir"]:
        raise ConfigError(
            f"hydra.sweep.subdir: {given['subdir']}: the folders of trials are named by their numbers; leave it out"
        )
    if given["dir"] != shipped["dir"]:
        return check_writable("hydra.sweep.dir", Path(config.hydra.sweep.dir).absolute())
    return check_writable("output_dir", output_dir / STUDIES_FOLDER / name_study_folder(study_name))


def _default_study_name(choices: Mapping[str, str]) -> str:
    """Return a name made of the search space and the experiment."""
    names = [choices[key] for key in ("sweeps", "experiment") if key in choices]
    return "-".join(dict.fromkeys(map(name_study_folder, names)))


def _check_not_torchrun() -> None:
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        command = " ".join(run_command())
        raise ConfigError(
            f"WORLD_SIZE={size}: every process would start its own sweep; start `{command} -m` once without "
            "torchrun, and set the number of workers with sweep.n_jobs"
        )


def _check_enqueued_points(options: SweepOptions, space: SearchSpace) -> None:
    for point in options.enqueue:
        try:
            space.to_trial_params(point)
        except ConfigError as error:
            raise ConfigError(f"sweep.enqueue: {error}") from error


def _check_study_spec(spec: StudySpec, pruner: str, space: SearchSpace) -> None:
    spec.make_sampler()
    spec.make_pruner()
    if len(spec.objectives) > 1 and not str(spec.pruner.get("_target_")).endswith("NopPruner"):
        objectives = ", ".join(spec.objectives)
        raise ConfigError(
            f"pruner={pruner}: Optuna cannot prune with several objectives ({objectives}); use pruner=none"
        )
    check_custom_space(spec.custom_search_space, space)


def count_trials(options: SweepOptions, spec: StudySpec, space: SearchSpace, cfg: DictConfig) -> int:
    """Return the number of trials: each point of a finite space is run once, and the current config."""
    if spec.is_grid:
        n_grid = len(space.list_grid_points())
        return min(options.n_trials or n_grid, n_grid)
    n_trials = options.n_trials or DEFAULT_N_TRIALS
    n_points = None if spec.custom_search_space else space.count_points()
    if n_points is None:
        return n_trials
    is_outside = options.baseline and bool(baseline_values(space, cfg)[1])
    return min(n_trials, n_points + is_outside)


def _build_budget(options: SweepOptions, sweeper: Mapping[str, Any], n_trials: int) -> Budget:
    return Budget(
        n_trials=n_trials,
        max_tokens=options.max_tokens,
        patience=options.patience,
        max_failures=options.max_failures,
        max_failure_rate=sweeper["max_failure_rate"],
    )


def _fixed_settings(cfg: DictConfig, space: SearchSpace) -> dict[str, str]:
    """Return the settings that all trials of the study must share."""
    sections = cast(dict[str, Any], OmegaConf.to_container(without_sweep_keys(cfg), resolve=True))
    kept = {key: section for key, section in sections.items() if key not in UNCOMPARED_SECTIONS}
    searched = tuple(f"{key}." for key in space.searched_keys)
    return {
        key: hide_credentials(value)
        for key, value in flatten_config(kept).items()
        if not f"{key}.".startswith(searched)
    }
