"""What may change a run: pure functions of the facts, asked between steps, carried out by the loop."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.events import EvalEnd, Event, OutOfMemory, Status, StepEnd


@dataclass(frozen=True)
class Stop:
    """End the run with this status; the reason is for people."""

    status: Status
    reason: str


@dataclass(frozen=True)
class ShrinkMicroBatch:
    """Split the same step batch anew, this many examples a forward pass."""

    micro_batch_size: int


Decision = Stop | ShrinkMicroBatch | None
Policy = Callable[[Event], Decision]


def decide(policies: Iterable[Policy], event: Event) -> Decision:
    """The first answer that is not to continue."""
    for policy in policies:
        decision = policy(event)
        if decision is not None:
            return decision
    return None


def stop_when_diverged(max_skips: int = 0) -> Policy:
    """End the run at the first loss that is not finite; under fp16, where a skipped step is routine, after more than
    `max_skips` in a row."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and not math.isfinite(event.val_loss):
            return Stop("diverged", f"validation loss {event.val_loss} at step {event.step}")
        if isinstance(event, StepEnd) and event.skips > max_skips:
            numbers = f"loss {event.loss}, gradient norm {event.grad_norm} at step {event.step}"
            return Stop("diverged", f"{numbers}, {event.skips} steps skipped in a row" if max_skips else numbers)
        return None

    return policy


def stop_early(patience: int) -> Policy:
    """End the run as completed after `patience` evaluations without a new best."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.evals_since_best >= patience:
            return Stop("completed", f"no better validation loss in {patience} evaluations")
        return None

    return policy


def shrink_when_out_of_memory(event: Event) -> Decision:
    """Halve the micro-batch until a single example does not fit."""
    if not isinstance(event, OutOfMemory):
        return None
    if event.micro_batch_size == 1:
        return Stop("failed", f"out of memory with one example a forward pass: {event.message}")
    return ShrinkMicroBatch(event.micro_batch_size // 2)
