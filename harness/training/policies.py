"""Policies: functions from an event to a decision that changes the run. The loop carries the decisions out.

Those that every run has ignore probes, so that the run is the same without them.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from harness.core.events import EvalEnd, Event, OutOfMemory, Status, StepEnd


@dataclass(frozen=True)
class Stop:
    """End the run with this status; `reason` is a message for people."""

    status: Status
    reason: str


@dataclass(frozen=True)
class ShrinkMicroBatch:
    """Retry the same step with this many examples per forward pass."""

    micro_batch_size: int


@dataclass(frozen=True)
class HandleSpike:
    """Report a loss spike that began after `last_good_step`, and continue, roll back or stop.

    A rollback restores the last checkpoint before the spike and multiplies every LR by `lr_factor`. After
    `max_rollbacks` of them, the next spike stops the run.
    """

    last_good_step: int
    loss: float
    baseline_loss: float
    action: Literal["warn", "rollback", "stop"]
    lr_factor: float
    max_rollbacks: int


Decision = Stop | ShrinkMicroBatch | HandleSpike | None
Policy = Callable[[Event], Decision]


def first_decision(policies: Iterable[Policy], event: Event) -> Decision:
    """Return the first decision that is not None. Later policies do not see the event."""
    for policy in policies:
        decision = policy(event)
        if decision is not None:
            return decision
    return None


def stop_when_diverged(max_skips: int = 0) -> Policy:
    """Return a policy that ends the run when a loss is not finite.

    Under fp16, where skipped steps are routine, it takes more than `max_skips` of them in a row.
    """

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and not event.is_probe and not math.isfinite(event.val_loss):
            return Stop("diverged", f"validation loss {event.val_loss} at step {event.step}")
        if isinstance(event, StepEnd) and event.skips > max_skips:
            values = f"loss {event.loss}, gradient norm {event.grad_norm} at step {event.step}"
            return Stop("diverged", f"{values}, {event.skips} steps skipped in a row" if max_skips else values)
        return None

    return policy


def stop_early(patience: int) -> Policy:
    """Return a policy that ends the run as completed after `patience` evaluations without a new best loss."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and not event.is_probe and event.evals_since_best >= patience:
            return Stop("completed", f"validation loss did not improve in {patience} evaluations")
        return None

    return policy


def shrink_when_out_of_memory(event: Event) -> Decision:
    """Halve the micro-batch; stop as failed if a single example does not fit."""
    if not isinstance(event, OutOfMemory):
        return None
    if event.micro_batch_size == 1:
        return Stop("failed", f"out of memory with one example per forward pass: {event.message}")
    return ShrinkMicroBatch(event.micro_batch_size // 2)
