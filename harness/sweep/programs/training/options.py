"""The `sweep` node of our configuration, and the keys that hydra-optuna-sweeper has for the same."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

from omegaconf import DictConfig, ListConfig, OmegaConf

from harness.config.alternatives import read_given_settings
from harness.config.validation import parse_section
from harness.core.errors import ConfigError
from harness.sweep.options import SweepOptions, apply_failure_rate
from harness.sweep.programs.directions import check_n_directions, parse_directions
from harness.sweep.study.storage import absolute_storage_url

OBJECTIVES = ("best_val_loss", "tokens", "seconds", "trainable_parameters")
"""Fields of a run's result that can be minimized; the first is mandatory."""
TEST_LOSS = "test_loss"


REPLACED_KEYS = {
    "pruner": "pruner=NAME",
    "mlflow": "~observers.mlflow to leave it out",
    "mlflow_uri": "tracking.uri",
    "mlflow_experiment": "tracking.experiment",
}
"""Options of hydra.sweeper for which our configuration has keys of its own."""


@dataclass(frozen=True)
class TrainingOptions(SweepOptions):
    """Options of a sweep over our own training."""

    objectives: list[str] = field(default_factory=lambda: ["best_val_loss"])
    keep: int | None = 3
    baseline_values: list[str] = field(default_factory=list)
    allow: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        for override in self.baseline_values:
            if not re.fullmatch(r"\+*\w+\.[^=]+=.*", str(override), re.DOTALL):
                raise ValueError(
                    f"baseline_values: {override!r} must set a key of a section, such as optimizer.lr=0.01"
                )
        if TEST_LOSS in self.objectives:
            raise ValueError(
                f"objectives: {TEST_LOSS} is measured on the test split, by which a sweep must not choose; leave it "
                "out, and measure it with plateau confirm"
            )
        if any(name not in OBJECTIVES for name in self.objectives):
            raise ValueError(f"objectives: {self.objectives} must be distinct names from {', '.join(OBJECTIVES)}")
        if self.objectives[0] != OBJECTIVES[0]:
            raise ValueError(f"objectives: {self.objectives} must begin with {OBJECTIVES[0]}")


def read_training_options(config: DictConfig, sweeper: Mapping[str, Any], arguments: Sequence[str]) -> TrainingOptions:
    """Read the `sweep` node; keys given in the names of hydra-optuna-sweeper win.

    Raises:
        ConfigError: If a value is invalid.
    """
    for key, remedy in REPLACED_KEYS.items():
        if sweeper.get(key) is not None:
            raise ConfigError(f"hydra.sweeper.{key}: is for other programs; here, use {remedy}")
    names = {name: name for name in (field.name for field in fields(SweepOptions))} | {"study": "study_name"}
    given = {ours: sweeper[theirs] for ours, theirs in names.items() if sweeper.get(theirs) is not None}
    for name in ("objectives", "enqueue", "allow", "baseline_values"):
        if not isinstance(config.sweep[name], ListConfig):
            value = config.sweep[name]
            raise ConfigError(f"sweep.{name}: {value!r} must be a list; write 'sweep.{name}=[{value}]'")
    options = parse_section("sweep", TrainingOptions, cast(DictConfig, OmegaConf.merge(config.sweep, given)))
    has_max_failures = "sweep.max_failures" in read_given_settings(arguments)
    options = apply_failure_rate(options, sweeper["max_failure_rate"], has_max_failures=has_max_failures)
    if "maximize" in parse_directions(sweeper["direction"]):
        listed = ", ".join(options.objectives)
        raise ConfigError(f"hydra.sweeper.direction: maximize: {listed} can only be minimized")
    check_n_directions(sweeper["direction"], options.objectives)
    return options if options.storage is None else replace(options, storage=absolute_storage_url(options.storage))
