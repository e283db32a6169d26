"""Read what a sweep over our own training should do from the configuration and the command line."""

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
from harness.core.distributed import select_device
from harness.core.errors import ConfigError
from harness.core.paths import config_dir, run_command
from harness.record.sweep_files import STUDIES_FOLDER, name_study_folder
from harness.run import provenance
from harness.run.notices import describe_choices
from harness.sweep.options import DEFAULT_RUNS
from harness.sweep.programs import TRAINING
from harness.sweep.programs.custom_space import check_custom_space
from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS, ConfigSpace, read_config_space
from harness.sweep.programs.training.file_ranges import fit_file_ranges
from harness.sweep.programs.training.options import TrainingOptions, read_training_options
from harness.sweep.programs.training.usual_lrs import describe_unusual_lrs
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
from harness.sweep.space.range_syntax import explain_number_error
from harness.sweep.space.search_space import range_ends
from harness.sweep.study.spec import StudySpec
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, check_database_driver, resolve_store_uri

# Sections of the configuration in which trials of one study may differ.
UNCOMPARED_SECTIONS = (*NON_TRAINING_KEYS, "device")

PreflightMode = Literal["stop", "warn", "skip"]


@dataclass(frozen=True)
class TrainingRequest(SweepRequest):
    """A sweep over our own training.

    `cfg` is the current configuration, that of a trial without parameters, and has no credentials. `file_keys` are
    searched because a file says so.
    """

    options: TrainingOptions
    space: ConfigSpace
    cfg: DictConfig
    preflight: PreflightMode
    file_keys: frozenset[str]

    def hide_program_secrets(self) -> Mapping[str, Any]:
        """Return `program`: credentials in overrides were refused or removed, and names such as eos_token are none."""
        return self.program


def compose_sweep_request(overrides: Sequence[str]) -> TrainingRequest:
    """Return the request of `python run.py -m OVERRIDES`."""
    return read_sweep_request(*compose_sweep(overrides))


def compose_sweep(overrides: Sequence[str]) -> tuple[DictConfig, list[str]]:
    """Return what Hydra passes to the sweeper for `python run.py -m OVERRIDES`: the config and the arguments."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    fixed = [str(override.input_line) for override in parsed if not override.is_sweep_override()]
    with check_compositions(), initialize_config_dir(str(config_dir()), job_name="run"):
        config = compose("config", fixed, return_hydra_config=True)
    return config, [override for override in overrides if not override.startswith("hydra")]


def read_sweep_request(config: DictConfig, arguments: Sequence[str]) -> TrainingRequest:
    """Return the request of a composed `config`, which includes the `hydra` node, and the overrides `arguments`.

    Raises:
        ConfigError: If a problem shows before anything is built.
    """
    check_not_torchrun(" ".join([*run_command(), "-m"]))
    sweeper = cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweeper, resolve=True))
    options = read_training_options(config, sweeper, arguments)
    if options.storage:
        check_database_driver("sweep.storage", options.storage)
    choices = {group: choice for group, choice in config.hydra.runtime.choices.items() if isinstance(choice, str)}
    params = {str(key): value for key, value in (sweeper["params"] or {}).items()}
    arguments, notices = _complete_arguments(config, arguments)
    fitted = fit_file_ranges(params, options.conditional, arguments, choices)
    space = read_config_space(fitted.params, arguments, fitted.conditional, choices)
    options = replace(options, allow=_select_allowed(options.allow, arguments, space))
    if not space.ranges and not any(space.conditional.values()) and not sweeper["custom_search_space"]:
        raise ConfigError(_explain_empty_space(params, arguments, choices))
    cfg = space.compose_config({}, TRIAL_DEFAULTS)
    ranges = [f"{key}={value}" for part in (fitted.params, *fitted.conditional.values()) for key, value in part.items()]
    check_locked(cfg, [*arguments, *ranges])
    output_dir = _read_output_dir(cfg)
    _check_shared_best(cfg)
    _check_test_unseen(cfg)
    study_name = options.study or _default_study_name(choices)
    spec = _build_study_spec(config, cfg, options, space, sweeper)
    if spec.is_pausing and not spec.is_grid and options.n_trials is None and options.max_tokens is None:
        options = replace(options, runs=options.runs or DEFAULT_RUNS)
    check_sampler_and_pruner(spec, "pruner", choices.get("pruner", ""))
    if custom := spec.custom_search_space:
        check_custom_space(custom, space, space.compose_config({}), space.fixed, space.compose_config)
    check_enqueued_points(options, space)
    check_preflight_mode(config.preflight)
    launcher = choices.get("hydra/launcher", BASIC_LAUNCHER)
    check_launcher(launcher, config.hydra.launcher, options)
    current_values = space.read_current_values(cfg)
    mlflow = _find_mlflow_node(config.get("observers"))
    return TrainingRequest(
        cfg=cfg,
        options=options,
        spec=spec,
        program={"fixed": space.fixed, "baseline": space.baseline},
        space=space,
        budget=plan_budget(options, spec, space, current_values, sweeper["max_failure_rate"]),
        study_name=study_name,
        folder=_choose_folder(config, output_dir, study_name),
        workers=plan_own_workers(launcher, options.n_jobs, cfg, options.devices_per_trial),
        store_uri=resolve_store_uri(mlflow.get("uri")),
        is_uploaded="mlflow" in cfg.observers,
        experiment=cfg.observers.get("mlflow", {}).get("experiment", DEFAULT_EXPERIMENT),
        command_line=TrainingCommandLine(space.current),
        command=provenance.current_command(arguments),
        description={name: OmegaConf.to_container(cfg[name]) for name in ("locked", "unlock")},
        current_values=current_values,
        preflight=config.preflight,
        file_keys=frozenset(fitted.params),
        n_points=count_space_points(spec, space),
        notices=(*notices, *fitted.notices, *_describe_space(space, params, cfg, arguments)),
    )


def _build_study_spec(
    config: DictConfig,
    cfg: DictConfig,
    options: TrainingOptions,
    space: ConfigSpace,
    sweeper: Mapping[str, Any],
) -> StudySpec:
    return StudySpec(
        program=TRAINING,
        space=space.to_json(),
        custom_search_space=sweeper["custom_search_space"],
        objectives=options.objectives,
        directions=["minimize"] * len(options.objectives),
        sampler=sweeper["sampler"],
        pruner=cast(dict[str, Any], OmegaConf.to_container(config.pruner, resolve=True)),
        seed=cfg.seed,
        warmup_share=0.0,
        keep=options.keep,
        max_disk=options.max_disk,
        config=_fixed_settings(cfg, space),
    )


def list_own_gpus(cfg: DictConfig) -> list[str]:
    """Return the ids of the GPUs that runs may use."""
    return list_gpus()[: torch.cuda.device_count()] if cfg.device.kind in ("auto", "cuda") else []


def plan_own_workers(launcher: str, n_jobs: int | None, cfg: DictConfig, devices_per_trial: int | None) -> WorkerPlan:
    """Plan workers for runs of a configuration.

    Raises:
        ConfigError: If its device cannot be that of several processes, or a trial needs more GPUs than there are.
    """
    if devices_per_trial is not None and devices_per_trial > 1 and select_device(cfg.device.kind) == "mps":
        raise ConfigError(f"sweep.devices_per_trial: {devices_per_trial}: mps runs one process only; use device=cpu")
    return plan_workers(launcher, n_jobs, list_own_gpus(cfg), devices_per_trial=devices_per_trial)


def check_preflight_mode(mode: str) -> None:
    """Check that `preflight` is one of its modes."""
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


def _find_mlflow_node(observers: Any) -> Mapping[str, Any]:
    """Return the settings of the MLflow observer; the trials' own observers have been checked already."""
    mlflow = observers.get("mlflow") if isinstance(observers, DictConfig) else None
    return cast(Mapping[str, Any], mlflow) if isinstance(mlflow, DictConfig) else {}


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
    space: ConfigSpace, params: Mapping[str, Any], cfg: DictConfig, arguments: Sequence[str]
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


def _list_other_options(space: ConfigSpace) -> list[LeftOut]:
    """Return the values of the experiment that some option of the space replaces with its own."""
    searched = {key: range_ends(dist) for key, dist in space.ranges.items() if key in space.group_options}
    points: list[dict[str, str]] = [{}, *({key: option} for key, options in searched.items() for option in options)]
    parts: list[LeftOut] = []
    for point in points:
        with suppress(HydraException, ValueError):  # what is wrong with an option is reported when the bounds are built
            parts += space.list_left_out(point, TRIAL_DEFAULTS)
    return parts


def _select_allowed(allow: list[str], arguments: Sequence[str], space: ConfigSpace) -> list[str]:
    """Return the keys of sweep.allow; a file may list keys that this sweep does not search."""
    if "sweep.allow" in read_given_settings(arguments):
        return allow
    return [name for name in allow if any(contains_key(name, key) for key in space.searched_keys)]


def _check_shared_best(cfg: DictConfig) -> None:
    if cfg.start.kind == "resume" and not cfg.start.restart_schedule:
        raise ConfigError(
            "start.restart_schedule: false: every trial would inherit the best loss of the resumed run; "
            "use start.restart_schedule=true"
        )


def _check_test_unseen(cfg: DictConfig) -> None:
    if cfg.score_test:
        raise ConfigError(
            "score_test: true: a sweep that scores the test split chooses by it; leave it out, or set "
            "score_test=false, and score the best trials with plateau confirm"
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


def _fixed_settings(cfg: DictConfig, space: ConfigSpace) -> dict[str, str]:
    """Return the settings that all trials of the study must share."""
    sections = cast(dict[str, Any], OmegaConf.to_container(without_sweep_keys(cfg), resolve=True))
    kept = {key: section for key, section in sections.items() if key not in UNCOMPARED_SECTIONS}
    searched = tuple(f"{key}." for key in space.searched_keys)
    return {
        key: hide_credentials(value)
        for key, value in flatten_config(kept).items()
        if not f"{key}.".startswith(searched)
    }
