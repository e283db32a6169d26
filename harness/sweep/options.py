"""The `sweep` node of the configuration."""

import re
from dataclasses import dataclass, field
from typing import Any

from harness.config.validation import RUN_NAME_PATTERN

OBJECTIVES = ("best_val_loss", "tokens", "seconds", "trainable_parameters")
"""Fields of a run's result that can be minimized; the first is mandatory."""


@dataclass(frozen=True)
class SweepOptions:
    """Options of a sweep. `max_seconds` limits this command, `max_tokens` the whole study; None means no limit."""

    n_trials: int = 24
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
        if self.study is not None and not re.fullmatch(RUN_NAME_PATTERN, self.study):
            raise ValueError(f"study: {self.study!r} must be at most 80 letters, digits and . _ + - characters")
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
