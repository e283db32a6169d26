"""The `sweep` node of the configuration: how to search, in numbers."""

import re
from dataclasses import dataclass, field
from typing import Any

from harness.config.validation import RUN_NAME_PATTERN

OBJECTIVES = ("best_val_loss", "tokens", "seconds", "trainable_parameters")
"""What a run's result says of it; all are to be small."""


@dataclass(frozen=True)
class SweepOptions:
    """Seconds are those of this command, tokens those of the whole study; None where there is no limit."""

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
            raise ValueError(f"study: {self.study!r} may have up to 80 letters, digits and any of . _ + -")
        unknown = [name for name in self.objectives if name not in OBJECTIVES]
        if unknown or not self.objectives or len(set(self.objectives)) < len(self.objectives):
            raise ValueError(f"objectives: {self.objectives} must be some of {', '.join(OBJECTIVES)}, each once")
        for point in self.enqueue:
            if not isinstance(point, dict):
                raise ValueError(f"enqueue: {point!r} is no mapping of swept keys, such as {{optimizer.lr: 0.01}}")
        if self.objectives[0] != OBJECTIVES[0]:
            raise ValueError(
                f"objectives: {self.objectives} must begin with {OBJECTIVES[0]}; a cost alone is least for nothing"
            )
        if len(self.objectives) > 1 and self.patience is not None:
            raise ValueError("patience: with several objectives there is no one best to wait for; set it null")
