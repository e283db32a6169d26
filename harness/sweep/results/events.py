"""Events of trials for the log of a sweep: ends, pauses and promotions."""

from collections.abc import Iterator
from dataclasses import dataclass

from harness.sweep.results.summary import TrialSummary
from harness.sweep.study.promotion import Promotion, Reason
from harness.sweep.study.rungs import FULL_RUN

REASONS: dict[Reason, str] = {
    "rank": "one of the best there",
    "projection": "best projected value",
    "coverage": "best of an option without a completed trial",
    "last": "no new trials start",
}


@dataclass(frozen=True)
class Event:
    """A promotion of a trial, or else the end or the pause that its status says."""

    trial: TrialSummary
    position: int
    promotion: Promotion | None = None

    @property
    def key(self) -> tuple[int, int, str]:
        return self.trial.number, self.position, "promoted" if self.promotion else self.trial.status


def list_events(trial: TrialSummary) -> Iterator[Event]:
    """Yield what has happened to a trial, in order. Of its pauses, only the last one is known."""
    for index, promotion in enumerate(trial.promotions):
        yield Event(trial, index, promotion)
    if trial.status not in ("queued", "running"):
        yield Event(trial, len(trial.promotions))


def describe_promotion(promotion: Promotion) -> str:
    """Return a line that says from where to where a trial was promoted, and why."""
    target = "its end" if promotion.target == FULL_RUN else f"{promotion.target} %"
    reason = REASONS.get(promotion.reason, promotion.reason)
    return f"trial {promotion.number} · promoted from {promotion.start} % to {target} · {reason}"
