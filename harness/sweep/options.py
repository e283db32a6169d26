"""The `sweep` node of the configuration, and the keys that hydra-optuna-sweeper has for the same."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.config.alternatives import read_given_settings
from harness.config.validation import parse_section
from harness.core.errors import ConfigError
from harness.sweep.study.storage import absolute_storage_url

OBJECTIVES = ("best_val_loss", "tokens", "seconds", "trainable_parameters")
"""Fields of a run's result that can be minimized; the first is mandatory."""

DEFAULT_N_TRIALS = 24
MAX_STUDY_NAME = 80  # characters


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep. `max_seconds` limits this command, `max_tokens` the whole study; None means no limit.

    `n_trials` is None for DEFAULT_N_TRIALS, or for all points of a grid.
    """

    n_trials: int | None = None
    n_jobs: int | None = None
    study: str | None = None
    storage: str | None = None
    objectives: list[str] = field(default_factory=lambda: ["best_val_loss"])
    max_seconds: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    max_failures: int | None = 3
    keep: int = 3
    baseline: bool = True
    baseline_values: list[str] = field(default_factory=list)
    enqueue: list[Any] = field(default_factory=list)
    conditional: dict[str, Any] = field(default_factory=dict)
    allow: list[str] = field(default_factory=list)
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs", "max_tokens", "patience", "max_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")
        if self.keep < 0:
            raise ValueError(f"keep: {self.keep} must not be below 0")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds: {self.max_seconds} must be above 0")
        if self.study is not None and not (self.study.strip() and self.study.isprintable()):
            raise ValueError(f"study: {self.study!r} must be a name in one line")
        if len(self.study or "") > MAX_STUDY_NAME:
            raise ValueError(f"study: {self.study!r} must be at most {MAX_STUDY_NAME} characters")
        for override in self.baseline_values:
            if not re.fullmatch(r"\+*\w+\.[^=]+=.*", str(override), re.DOTALL):
                raise ValueError(
                    f"baseline_values: {override!r} must set a key of a section, such as optimizer.lr=0.01"
                )
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives: {self.objectives} must be distinct names from {', '.join(OBJECTIVES)}")
        for point in self.enqueue:
            if not isinstance(point, dict):
                raise ValueError(f"enqueue: {point!r} must map searched keys to values, such as {{optimizer.lr: 0.01}}")
        if self.objectives[0] != OBJECTIVES[0]:
            raise ValueError(f"objectives: {self.objectives} must begin with {OBJECTIVES[0]}")
        if len(self.objectives) > 1 and self.patience is not None:
            raise ValueError("patience: must be null with several objectives, which have no single best trial")


def read_sweep_options(config: DictConfig, sweeper: Mapping[str, Any], arguments: Sequence[str]) -> SweepOptions:
    """Read the `sweep` node; keys given in the names of hydra-optuna-sweeper win.

    Raises:
        ConfigError: If a value is invalid.
    """
    names = {"n_trials": "n_trials", "n_jobs": "n_jobs", "study_name": "study", "storage": "storage"}
    given = {ours: sweeper[theirs] for theirs, ours in names.items()}
    for name in ("objectives", "enqueue", "allow", "baseline_values"):
        if not isinstance(config.sweep[name], ListConfig):
            value = config.sweep[name]
            raise ConfigError(f"sweep.{name}: {value!r} must be a list; write 'sweep.{name}=[{value}]'")
    options = parse_section("sweep", SweepOptions, cast(DictConfig, OmegaConf.merge(config.sweep, given)))
    rate = sweeper["max_failure_rate"]
    if rate is not None and (type(rate) not in (int, float) or not 0 <= rate <= 1):
        raise ConfigError(f"hydra.sweeper.max_failure_rate: {rate!r} must be a share from 0 to 1")
    if rate is not None and "sweep.max_failures" not in read_given_settings(arguments):
        options = replace(options, max_failures=None)  # the rate alone says how many may fail
    _check_directions(sweeper["direction"], options.objectives)
    return options if options.storage is None else replace(options, storage=absolute_storage_url(options.storage))


def _check_directions(direction: Any, objectives: Sequence[str]) -> None:
    """Check the directions: one for each objective, or one for all, and none but to minimize."""
    directions = direction if isinstance(direction, list) else [direction]
    names = [str(getattr(one, "name", one)) for one in directions]
    listed = ", ".join(objectives)
    for name in names:
        if name != "minimize":
            raise ConfigError(f"hydra.sweeper.direction: {name}: {listed} can only be minimized")
    if isinstance(direction, list) and len(names) != len(objectives):
        count = f"{len(names)} direction{'s' * (len(names) != 1)}"
        raise ConfigError(
            f"hydra.sweeper.direction: [{','.join(names)}] has {count} for "
            f"{len(objectives)} objective{'s' * (len(objectives) > 1)} ({listed}); "
            "leave it out, or list as many with sweep.objectives=[…]"
        )
