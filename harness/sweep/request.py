"""What a sweep is asked to do, read from the configuration and the command line."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.config.compose import NON_TRAINING_KEYS, flatten_config, list_search_path_overrides, without_sweep_keys
from harness.config.locks import check_locked
from harness.config.targets import import_target
from harness.config.validation import check_writable, parse_section, validate_config
from harness.core.errors import ConfigError
from harness.core.paths import config_dir
from harness.sweep.options import SweepOptions
from harness.sweep.space.search_space import SearchSpace, read_search_space
from harness.sweep.study.budget import Budget
from harness.sweep.study.spec import StudySpec
from harness.sweep.study.storage import absolute_storage_url
from harness.sweep.workers.worker_pool import count_cores

UNCOMPARED_SECTIONS = (*NON_TRAINING_KEYS, "device")
"""Parts of the configuration in which trials may differ and still be compared."""

MAX_DEFAULT_JOBS = 4
"""Workers by default at most: more of them propose with less to go by."""

LOCAL_LAUNCHERS = ("basic", "joblib", "submitit_local")
"""Those whose workers share this machine."""


@dataclass(frozen=True)
class SweepRequest:
    """`cfg` is the present config, as a trial without parameters has it. `threads` and `gpus` are those of this
    machine for a worker and for all, None and 0 where a launcher's machines are not known."""

    cfg: DictConfig
    options: SweepOptions
    spec: StudySpec
    space: SearchSpace
    budget: Budget
    study_name: str
    folder: Path
    launcher: str
    preflight: Literal["stop", "warn", "skip"]
    is_local: bool
    n_jobs: int
    n_threads: int | None
    n_gpus: int


def compose_sweep_request(overrides: Sequence[str]) -> SweepRequest:
    """What `python run.py -m OVERRIDES` is asked to do."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    with initialize_config_dir(str(config_dir()), job_name="run"):
        config = compose("config", fixed, return_hydra_config=True)
    return read_sweep_request(config, [override for override in overrides if not override.startswith("hydra")])


def read_sweep_request(config: DictConfig, arguments: Sequence[str]) -> SweepRequest:
    """ConfigError for whatever reading alone shows to be wrong."""
    _check_not_torchrun()
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=True)
    options = _read_sweep_options(config, sweeper)
    choices = {group: choice for group, choice in config.hydra.runtime.choices.items() if isinstance(choice, str)}
    params = {str(key): value for key, value in (sweeper["params"] or {}).items()}
    arguments = [*list_search_path_overrides(config.hydra), *arguments]
    space = read_search_space(params, arguments, options.conditional, choices)
    if not space.ranges and not any(space.conditional.values()) and not sweeper["custom_search_space"]:
        raise ConfigError(
            "there is nothing to search: give a range, such as 'optimizer.lr=tag(log,interval(1e-4,1e-1))'"
        )
    cfg = space.compose_config({}, ["observers=trial"])
    ranges = [params, *options.conditional.values()]
    check_locked(cfg, [*arguments, *(f"{key}={value}" for found in ranges for key, value in found.items())])
    _check_shared_best(cfg)
    launcher = choices.get("hydra/launcher", "basic")
    is_local = launcher in LOCAL_LAUNCHERS
    gpus = torch.cuda.device_count() if is_local and cfg.device.kind in ("auto", "cuda") else 0
    n_jobs = options.n_jobs or gpus or max(1, min(count_cores() // 2, MAX_DEFAULT_JOBS))
    if not is_local and options.n_jobs is None:
        raise ConfigError(f"sweep.n_jobs: hydra/launcher={launcher} has machines of its own; say how many workers")
    plan = StudySpec(
        params=params,
        arguments=arguments,
        conditional=options.conditional,
        custom_search_space=sweeper["custom_search_space"],
        choices=choices,
        objectives=options.objectives,
        sampler=sweeper["sampler"],
        pruner=OmegaConf.to_container(config.pruner, resolve=True),
        seed=cfg.seed,
        warmup_share=0.0,
        keep=options.keep,
        config=_fixed_settings(cfg, space),
    )
    plan.make_sampler()
    _check_pruner(plan, choices.get("pruner", ""))
    _check_enqueued_points(options, space)
    if plan.custom_search_space is not None:
        import_target("hydra.sweeper.custom_search_space", plan.custom_search_space)
    name = options.study or _default_study_name(choices)
    folder = validate_config(cfg).output_dir / "sweeps" / name
    return SweepRequest(
        cfg=cfg,
        options=options,
        spec=plan,
        space=space,
        budget=_build_budget(options, sweeper, plan, space),
        study_name=name,
        folder=check_writable("output_dir", folder),
        launcher=launcher,
        preflight=_read_preflight_mode(config.preflight),
        is_local=is_local,
        n_jobs=n_jobs,
        n_threads=max(1, count_cores() // n_jobs) if is_local else None,
        n_gpus=gpus,
    )


def _check_shared_best(cfg: DictConfig) -> None:
    if cfg.start.kind == "resume" and cfg.start.schedule == "continue":
        raise ConfigError(
            "start.schedule: with 'continue' every trial would count the best of the run that all go on from as its "
            "own; use start.schedule=restart"
        )


def _default_study_name(choices: Mapping[str, str]) -> str:
    """A study's, by what is searched of what."""
    return "-".join(re.sub(r"[^\w.+-]", "_", choices[key]) for key in ("sweeps", "experiment") if key in choices)


def _read_preflight_mode(choice: Any) -> Literal["stop", "warn", "skip"]:
    if choice not in ("stop", "warn", "skip"):
        raise ConfigError(f"preflight: {choice!r} is none of stop, warn, skip")
    return choice


def _check_not_torchrun() -> None:
    size = int(os.environ.get("WORLD_SIZE", 1))
    if size > 1:
        raise ConfigError(
            f"WORLD_SIZE={size}: every process would start a sweep of its own; start `python run.py -m` once, without "
            "torchrun, and say how many workers it has with sweep.n_jobs"
        )


def _read_sweep_options(config: DictConfig, sweeper: Mapping[str, Any]) -> SweepOptions:
    """The `sweep` node, where the stock sweeper's own keys were not given instead."""
    stock = {"n_trials": "n_trials", "n_jobs": "n_jobs", "study_name": "study", "storage": "storage"}
    given = {ours: sweeper[theirs] for theirs, ours in stock.items()}
    for name in ("objectives", "enqueue", "allow"):
        if not isinstance(config.sweep[name], ListConfig):
            value = config.sweep[name]
            raise ConfigError(f"sweep.{name}: {value!r} is no list; write 'sweep.{name}=[{value}]'")
    options = parse_section("sweep", SweepOptions, OmegaConf.merge(config.sweep, given))
    rate = sweeper["max_failure_rate"]
    if rate is not None and (isinstance(rate, str) or not 0 <= rate <= 1):
        raise ConfigError(f"hydra.sweeper.max_failure_rate: {rate!r} must be a share from 0 to 1")
    directions = sweeper["direction"] if isinstance(sweeper["direction"], list) else [sweeper["direction"]]
    for direction in directions:
        if str(getattr(direction, "name", direction)) != "minimize":
            raise ConfigError(
                f"hydra.sweeper.direction: {direction} was asked for, and {', '.join(options.objectives)} is minimised"
            )
    return options if options.storage is None else replace(options, storage=absolute_storage_url(options.storage))


def _check_enqueued_points(options: SweepOptions, space: SearchSpace) -> None:
    for point in options.enqueue:
        try:
            space.to_trial_params(point)
        except ConfigError as error:
            raise ConfigError(f"sweep.enqueue: {error}") from error


def _check_pruner(plan: StudySpec, choice: str) -> None:
    plan.make_pruner()
    if len(plan.objectives) > 1 and not str(plan.pruner.get("_target_")).endswith("NopPruner"):
        names = ", ".join(plan.objectives)
        raise ConfigError(f"pruner={choice}: with several objectives ({names}) nothing can be pruned; use pruner=none")


def _build_budget(options: SweepOptions, sweeper: Mapping[str, Any], plan: StudySpec, space: SearchSpace) -> Budget:
    return Budget(
        n_trials=len(space.list_grid_points()) if plan.is_grid else options.n_trials,
        max_tokens=options.max_tokens,
        patience=options.patience,
        max_failures=options.max_failures,
        max_failure_rate=sweeper["max_failure_rate"],
    )


def _fixed_settings(cfg: DictConfig, space: SearchSpace) -> dict[str, str]:
    """What every trial has, but for what is swept and what changes no loss."""
    nodes = OmegaConf.to_container(without_sweep_keys(cfg), resolve=True)
    kept = {key: node for key, node in nodes.items() if key not in UNCOMPARED_SECTIONS}
    swept = tuple(f"{key}." for key in space.searched_keys)
    return {key: value for key, value in flatten_config(kept).items() if not f"{key}.".startswith(swept)}
