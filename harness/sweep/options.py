"""The options of a sweep that do not depend on the program whose runs are its trials."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

from harness.core.errors import ConfigError
from harness.core.formatting import parse_bytes

DEFAULT_N_TRIALS = 24
MAX_TRIALS = 1000  # of a sweep that other limits end
DEFAULT_RUNS = 8.0  # of our own training, whose trials pause
DEFAULT_MAX_FAILURES = 3
MAX_STUDY_NAME = 80  # characters


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep. `max_seconds` limits this command, `runs` and `max_tokens` the whole study; None is no limit.

    `n_trials` is None for DEFAULT_N_TRIALS, for all points of a grid, or for any number within `runs` or `max_tokens`.
    `runs` is a sum of shares of a run, over all trials. Checkpoints of paused trials take at most `max_disk` bytes,
    which may be written as 20GB. `warm_start` names an earlier study, or a range test, whose values half of the first
    proposals take. A trial has one device, if any, unless `devices_per_trial` says otherwise.
    """

    n_trials: int | None = None
    runs: float | None = None
    n_jobs: int | None = None
    devices_per_trial: int | None = None
    study: str | None = None
    storage: str | None = None
    objectives: list[str] = field(default_factory=lambda: ["value"])
    max_seconds: float | None = None
    max_tokens: int | None = None
    patience: int | None = None
    max_failures: int | None = DEFAULT_MAX_FAILURES
    keep: int | None = None
    max_disk: Any = None
    baseline: bool = True
    enqueue: list[Any] = field(default_factory=list)
    warm_start: str | None = None
    conditional: dict[str, Any] = field(default_factory=dict)
    dry_run: bool = False

    def __post_init__(self) -> None:
        for name in ("n_trials", "n_jobs", "devices_per_trial", "max_tokens", "patience", "max_failures"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}: {value} must be at least 1")
        if self.keep is not None and self.keep < 0:
            raise ValueError(f"keep: {self.keep} must not be below 0")
        if self.runs is not None and not 1 <= self.runs < math.inf:
            raise ValueError(f"runs: {self.runs} must be a number of at least 1, one whole run")
        if self.max_disk is not None:
            object.__setattr__(self, "max_disk", _parse_max_disk(self.max_disk))
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds: {self.max_seconds} must be above 0")
        if self.study is not None and not (self.study.strip() and self.study.isprintable()):
            raise ValueError(f"study: {self.study!r} must be a name in one line")
        if len(self.study or "") > MAX_STUDY_NAME:
            raise ValueError(f"study: {self.study!r} must be at most {MAX_STUDY_NAME} characters")
        if not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives: {self.objectives} must be distinct names")
        if self.warm_start is not None and not (self.warm_start.strip() and self.warm_start.isprintable()):
            raise ValueError(f"warm_start: {self.warm_start!r} must name a study, or be lr_range")
        for point in self.enqueue:
            if not isinstance(point, dict):
                raise ValueError(f"enqueue: {point!r} must map searched keys to values, such as {{optimizer.lr: 0.01}}")
        if len(self.objectives) > 1 and self.patience is not None:
            raise ValueError("patience: must be null with several objectives, which have no single best trial")


def _parse_max_disk(value: Any) -> int:
    try:
        return parse_bytes(str(value))
    except ValueError as error:
        raise ValueError(f"max_disk: {error}") from error


NAMES = "|".join([*(one.name for one in fields(SweepOptions)), "max_failure_rate"])
OPTION = re.compile(
    r"(?<![\w./-])(?:(?:hydra\.sweeper|sweep)\."
    rf"(?P<name>conditional\b|(?:{NAMES})\b(?!\.\w))|hydra/sweeper/(?P<component>sampler)(?==))(?P<assign>=)?"
)
"""An option in one of our messages. Other words, such as sweep.py or sampler=ddim, are the user's."""


def rename_sweep_options(message: str, name_option: Callable[[str], str], assign: str = "=") -> str:
    """Return one of our messages with the names that the user's options have in place of sweep.NAME."""

    def rename(found: re.Match[str]) -> str:
        return name_option(found["name"] or found["component"]) + (assign if found["assign"] else "")

    return OPTION.sub(rename, message)


Options = TypeVar("Options", bound=SweepOptions)


def apply_failure_rate(options: Options, rate: Any, *, has_max_failures: bool) -> Options:
    """Return the options with hydra.sweeper.max_failure_rate `rate`, which may be None.

    It alone says how many trials may fail, unless the user has set `max_failures` too.

    Raises:
        ConfigError: If it is no share.
    """
    if rate is not None and (type(rate) not in (int, float) or not 0 <= rate <= 1):
        raise ConfigError(f"hydra.sweeper.max_failure_rate: {rate!r} must be a share from 0 to 1")
    return options if rate is None or has_max_failures else replace(options, max_failures=None)
