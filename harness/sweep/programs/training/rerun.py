"""Run configurations of our own training again with other seeds: those of a sweep, or those of given overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from harness.config.compose import compose_config, flatten_config, has_key, list_choices
from harness.config.errors import explain_error
from harness.config.locks import check_locked
from harness.config.overrides import check_no_credentials, check_no_sweep_settings, read_override_key
from harness.config.user_paths import make_overrides_absolute, make_paths_absolute
from harness.config.validation import validate_config
from harness.core.errors import ConfigError
from harness.core.objective_keys import is_objective_key, select_objective_settings
from harness.run.dry_run import dry_run
from harness.sweep.programs import TRAINING
from harness.sweep.programs.training.command_line import TrainingCommandLine
from harness.sweep.programs.training.config_space import TRIAL_DEFAULTS, ConfigSpace, rebuild_config_space
from harness.sweep.programs.training.request import plan_own_workers
from harness.sweep.request import BASIC_LAUNCHER, LOCAL_LAUNCHERS
from harness.sweep.rerun import Rerun, RerunOptions
from harness.sweep.study.spec import StudySpec
from harness.sweep.swept_study import SweptStudy
from harness.tracking.store_uri import DEFAULT_EXPERIMENT, resolve_store_uri

SEED_KEY = "seed"
OBJECTIVE = "best_val_loss"
TEST_METRIC = "test_loss"
SCORE_TEST = "score_test=true"
NO_TEST_DATA = (
    "the data has no test split, so the claim is about the validation data, by which configurations were chosen; "
    "data.test_share=0.1, set before the sweep, holds one out"
)


@dataclass(frozen=True)
class TrainingConfigs:
    """Configurations of our own training that were given as overrides.

    `values` are what each sets beyond the overrides that all share, by key.
    """

    spec: StudySpec
    rerun: Rerun
    values: Mapping[str, Mapping[str, Any]]
    output_dir: Path
    store_uri: str
    experiment: str
    is_uploaded: bool


def prepare_training_rerun(study: SweptStudy, options: RerunOptions) -> Rerun:
    """Return what runs the training of a sweep again; on the test split too, if the data has one.

    Raises:
        ConfigError: If the configuration is no longer valid, or has no such seed.
    """
    program = study.program
    space = rebuild_config_space(study.spec, program.settings)
    n_jobs = options.n_jobs or (program.n_jobs if program.launcher in LOCAL_LAUNCHERS else None)
    n_devices = options.devices_per_trial or program.devices_per_trial
    return _make_rerun(space, [space.compose_config({}, TRIAL_DEFAULTS)], options, n_jobs, n_devices)


def read_training_configs(overrides: Mapping[str, list[str]], options: RerunOptions) -> TrainingConfigs:
    """Return the configurations of overrides, by name, after building each once.

    Raises:
        ConfigError: If one is invalid, or their validation losses cannot be compared.
    """
    absolute = {name: _compose_absolute(given) for name, given in overrides.items()}
    shared = [one for one in next(iter(absolute.values())) if all(one in given for given in absolute.values())]
    space = ConfigSpace({}, {}, list_choices(shared), tuple(shared))
    values = {name: _read_values([one for one in given if one not in shared]) for name, given in absolute.items()}
    cfgs = {name: space.compose_config(each, TRIAL_DEFAULTS) for name, each in values.items()}
    for name, cfg in cfgs.items():
        _check_same_config(cfg, compose_config([*TRIAL_DEFAULTS, *absolute[name]]))
        validate_config(cfg)
    _check_comparable(cfgs)
    for cfg in cfgs.values():  # also trains a missing base model with the whole machine
        dry_run(cfg)
    first = next(iter(cfgs.values()))
    mlflow = first.observers.get("mlflow") or {}
    return TrainingConfigs(
        spec=_make_spec(space),
        rerun=_make_rerun(space, list(cfgs.values()), options, options.n_jobs, options.devices_per_trial),
        values=values,
        output_dir=validate_config(first).output_dir,
        store_uri=resolve_store_uri(mlflow.get("uri")),
        experiment=mlflow.get("experiment", DEFAULT_EXPERIMENT),
        is_uploaded=bool(mlflow),
    )


def _make_rerun(
    space: ConfigSpace,
    cfgs: Sequence[DictConfig],
    options: RerunOptions,
    n_jobs: int | None,
    devices_per_trial: int | None,
) -> Rerun:
    seed_key = options.seed_flag or SEED_KEY
    if not all(has_key(cfg, seed_key) for cfg in cfgs):
        raise ConfigError(f"--seed-flag {seed_key}: the configuration has no such key; leave it out for {SEED_KEY}")
    if options.test_metric:
        raise ConfigError("--test-metric: is for other programs; here, data.test_share holds test data out")
    has_test = all(_has_test_data(cfg) for cfg in cfgs)
    fixed = [*space.fixed, *([SCORE_TEST] if has_test else [])]
    seeds = [OmegaConf.select(cfg, seed_key) for cfg in cfgs]
    return Rerun(
        program={"fixed": fixed, "baseline": space.baseline},
        workers=plan_own_workers(BASIC_LAUNCHER, n_jobs, cfgs[0], devices_per_trial),
        seed_key=seed_key,
        seed=max((seed for seed in seeds if isinstance(seed, int)), default=None),
        test_metric=TEST_METRIC if has_test else None,
        command_line=TrainingCommandLine(space.current),
        notices=() if has_test else (NO_TEST_DATA,),
    )


def _has_test_data(cfg: DictConfig) -> bool:
    return any(OmegaConf.select(cfg, f"data.{key}") is not None for key in ("test", "test_share"))


def _compose_absolute(overrides: list[str]) -> list[str]:
    """Check overrides as those of a run, and return them with absolute paths.

    Raises:
        ConfigError: If they are invalid.
    """
    check_no_sweep_settings(overrides)
    for override in overrides:
        check_no_credentials(override, "the study")
    try:
        cfg = compose_config(overrides)
    except (HydraException, ValueError) as error:
        raise ConfigError(explain_error(error, overrides)) from error
    check_locked(cfg, overrides)
    return make_overrides_absolute(overrides, *make_paths_absolute(cfg))


def _read_values(overrides: Sequence[str]) -> dict[str, Any]:
    """Return the values of overrides by key.

    Raises:
        ConfigError: If one deletes a key, which has no value.
    """
    values = {}
    for text, override in zip(overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True):
        if override.is_delete():
            raise ConfigError(f"{text}: deletes a key, which must be the same in all configurations; write it in each")
        values[read_override_key(text)] = override.value()
    return values


def _check_same_config(cfg: DictConfig, wanted: DictConfig) -> None:
    """Check that the values of a trial compose to what the overrides of a run compose to.

    Raises:
        ConfigError: If they do not.
    """
    found, expected = (flatten_config(OmegaConf.to_container(one, resolve=True)) for one in (cfg, wanted))
    keys = [key for key in {**expected, **found} if found.get(key) != expected.get(key)]
    if keys:
        raise ConfigError(
            f"{', '.join(sorted(keys))}: depends on the order of the overrides; set it for each configuration"
        )


def _check_comparable(cfgs: Mapping[str, DictConfig]) -> None:
    """Check that the validation losses of the configurations measure the same.

    Raises:
        ConfigError: If they do not.
    """
    flat = {name: flatten_config(OmegaConf.to_container(cfg, resolve=True)) for name, cfg in cfgs.items()}
    kept = {name: _select_compared(settings) for name, settings in flat.items()}
    (first, baseline), *others = kept.items()
    for name, settings in others:
        keys = sorted(key for key in {**baseline, **settings} if baseline.get(key) != settings.get(key))
        if keys:
            raise ConfigError(
                f"{keys[0]}: {baseline.get(keys[0])} for {first} and {settings.get(keys[0])} for {name}: their losses "
                f"measure different things and cannot be compared; give {', '.join(keys)} one value"
            )


def _select_compared(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the settings that decide what a validation loss measures, and those that choose its data."""
    data = {key: value for key, value in settings.items() if key.startswith(("data.", "tokenizer."))}
    return {
        **{key: value for key, value in data.items() if is_objective_key(key)},
        **select_objective_settings(settings),
    }


def _make_spec(space: ConfigSpace) -> StudySpec:
    return StudySpec(
        program=TRAINING,
        space=space.to_json(),
        custom_search_space=None,
        objectives=[OBJECTIVE],
        directions=["minimize"],
        sampler={},
        pruner={},
        seed=0,
        warmup_share=1.0,
        keep=None,
        config={"overrides": " ".join(space.fixed)},
    )
