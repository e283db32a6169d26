"""Result of a run."""

from dataclasses import dataclass, replace
from pathlib import Path

from harness.core.effective_settings import EffectiveSettings
from harness.core.errors import RunFailedError
from harness.core.events import Status

SHARED_FIELDS = ("status", "reason", "step", "tokens", "seconds", "best_val_loss", "best_step", "test_loss")
"""Fields of RunEnd and RunResult alike."""


@dataclass(frozen=True)
class RunResult:
    """Result of a run.

    `reason` is empty only for a completed run. `test_loss` is that of the best weights, None unless `score_test` is set
    and the run is completed. If the base that the run starts from failed, the result is that of the
    base, and `effective` is None.
    """

    status: Status
    reason: str
    best_val_loss: float
    best_step: int
    step: int
    tokens: int
    seconds: float
    folder: Path
    effective: EffectiveSettings | None
    test_loss: float | None = None


class BaseRunFailed(RunFailedError):
    """Training the base model that a run starts from did not complete."""

    def __init__(self, result: RunResult) -> None:
        self.result = replace(result, reason=f"base model {result.folder.name}: {result.reason}", effective=None)
        super().__init__(f"{self.result.status}: {self.result.reason}")
