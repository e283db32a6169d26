"""Histories with given losses and settings, for tests of comparisons."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.diagnosis.history import SECONDS, DataIdentity, History, RunFacts

DATA = DataIdentity("TextFiles", "d" * 16, "v" * 16, "900 bytes", "t" * 16, 2048)
STEPS = (0, 10, 20, 30, 40)


def make_history(
    name: str,
    losses: Sequence[float],
    settings: Mapping[str, str] | None = None,
    *,
    tokens_per_step: float | None = 1e6,
    error: float | None = 0.01,
    seconds_per_step: float | None = None,
    steps: Sequence[int] = STEPS,
    **facts: Any,
) -> History:
    """Return a run of ours that was evaluated at `steps` with these losses."""
    known = {"unit": "nats/token", "data": DATA, "program": "harness", "status": "completed"} | facts
    history = History(RunFacts(name=name, settings=settings, tokens_per_step=tokens_per_step, source=name, **known))
    for step, loss in zip(steps, losses, strict=False):
        row = {"val/loss": loss, "train/loss": loss}
        if error is not None:
            row["val/loss_se"] = error
        if seconds_per_step is not None:
            row[SECONDS] = step * seconds_per_step
        history.add_row(step, row)
    return history
