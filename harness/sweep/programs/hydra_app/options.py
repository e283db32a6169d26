"""The options of a sweep over an app: `hydra.sweeper`, with the names of hydra-optuna-sweeper and more."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from harness.config.validation import parse_section
from harness.core.errors import ConfigError
from harness.sweep.options import SweepOptions, apply_failure_rate
from harness.sweep.programs.directions import check_n_directions, parse_directions
from harness.sweep.study.components import read_pruner_node
from harness.sweep.study.spec import Direction
from harness.sweep.study.storage import absolute_storage_url
from harness.tracking.store_uri import check_database_driver

STOCK_NAMES = {"study": "study_name"}
"""Our own names of options that hydra-optuna-sweeper calls otherwise."""
DEFAULT_PRUNER = "pausing"


@dataclass(frozen=True)
class AppOptions:
    """Options of a sweep over an app. `sweeper` is the node `hydra.sweeper` as plain data."""

    sweep: SweepOptions
    directions: list[Direction]
    pruner: Mapping[str, Any]
    max_failure_rate: float | None
    sweeper: Mapping[str, Any]


def read_app_options(config: DictConfig) -> AppOptions:
    """Read `hydra.sweeper`.

    Raises:
        ConfigError: If a value is invalid; the message names the key.
    """
    sweeper = _read_sweeper_node(config)
    directions = parse_directions(sweeper["direction"])
    names = sweeper.get("objectives") or (
        [f"value_{index}" for index in range(len(directions))] if len(directions) > 1 else ["value"]
    )
    if len(directions) == 1 and isinstance(names, list) and not isinstance(sweeper["direction"], list):
        directions *= len(names)
    given = {one.name: sweeper.get(STOCK_NAMES.get(one.name, one.name)) for one in fields(SweepOptions)}
    given = {name: value for name, value in {**given, "objectives": names}.items() if value is not None}
    options = parse_section("sweep", SweepOptions, OmegaConf.create(given))
    rate = sweeper["max_failure_rate"]
    options = apply_failure_rate(options, rate, has_max_failures=sweeper.get("max_failures") is not None)
    check_n_directions(sweeper["direction"], options.objectives)
    if options.storage is not None:
        check_database_driver("sweep.storage", options.storage)
        options = replace(options, storage=absolute_storage_url(options.storage))
    return AppOptions(options, directions, _read_pruner(sweeper.get("pruner"), len(directions)), rate, sweeper)


def _read_pruner(given: Any, n_objectives: int) -> Mapping[str, Any]:
    """Return the node of a pruner, which may be given by the name of one of ours.

    Raises:
        ConfigError: If there is no such name.
    """
    if isinstance(given, Mapping):
        return given
    name = str(given or (DEFAULT_PRUNER if n_objectives == 1 else "none"))
    return read_pruner_node("hydra.sweeper.pruner", name)


def _read_sweeper_node(config: DictConfig) -> dict[str, Any]:
    try:
        return cast(dict[str, Any], OmegaConf.to_container(config.hydra.sweeper, resolve=True))
    except OmegaConfBaseException as error:
        key = (getattr(error, "full_key", None) or "hydra.sweeper").removeprefix("hydra.sweeper.")
        problem = str(error).partition("\n")[0]
        raise ConfigError(f"hydra.sweeper.{key}: {problem}; give it a value") from error
