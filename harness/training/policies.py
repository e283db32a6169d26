"""Policies: functions from an event to a decision that changes the run. The loop carries the decisions out."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.core.events import EvalEnd, Event, OutOfMemory, Status, StepEnd

SPIKE_WINDOW = 50  # steps that define the baseline loss
SPIKE_STEPS = 3  # consecutive steps that must exceed the threshold
# The threshold lies above the baseline by the larger of these: robust standard deviations, or a share of the baseline.
SPIKE_DEVIATIONS, SPIKE_FRACTION = 6.0, 0.1


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
        if isinstance(event, EvalEnd) and not math.isfinite(event.val_loss):
            return Stop("diverged", f"validation loss {event.val_loss} at step {event.step}")
        if isinstance(event, StepEnd) and event.skips > max_skips:
            values = f"loss {event.loss}, gradient norm {event.grad_norm} at step {event.step}"
            return Stop("diverged", f"{values}, {event.skips} steps skipped in a row" if max_skips else values)
        return None

    return policy


def watch_spikes(
    action: Literal["warn", "rollback", "stop"], *, lr_factor: float = 1.0, max_rollbacks: int = 0, max_skips: int = 0
) -> Policy:
    """Return a policy that reacts when SPIKE_STEPS losses in a row exceed the baseline of SPIKE_WINDOW earlier ones.

    With `action="rollback"` it also reacts to a loss that is not finite (under fp16, to more than `max_skips` skipped
    steps), as Chowdhery et al., 2022 (section 5.1), who rolled back and skipped the batches at fault.
    """
    losses: deque[float] = deque(maxlen=SPIKE_WINDOW + SPIKE_STEPS)

    def policy(event: Event) -> Decision:
        last_good_step = _last_finite_step(event, max_skips) if action == "rollback" else None
        if last_good_step is not None and isinstance(event, StepEnd | EvalEnd):
            loss = event.loss if isinstance(event, StepEnd) else event.val_loss
            baseline_loss = median(losses) if losses else math.nan
        elif isinstance(event, StepEnd) and math.isfinite(event.loss):
            losses.append(event.loss)
            baseline, latest = list(losses)[:SPIKE_WINDOW], list(losses)[SPIKE_WINDOW:]
            if len(latest) < SPIKE_STEPS or min(latest) <= _spike_threshold(baseline):
                return None
            last_good_step, loss, baseline_loss = event.step - SPIKE_STEPS, event.loss, median(baseline)
        else:
            return None
        losses.clear()  # report a loss that stays high only once
        return HandleSpike(last_good_step, loss, baseline_loss, action, lr_factor, max_rollbacks)

    return policy


def _last_finite_step(event: Event, max_skips: int) -> int | None:
    """Return the last step before the loss ceased to be finite, or None if it is finite."""
    if isinstance(event, EvalEnd) and event.step and not math.isfinite(event.val_loss):
        return event.step - 1
    return event.step - event.skips if isinstance(event, StepEnd) and event.skips > max_skips else None


def _spike_threshold(baseline: list[float]) -> float:
    center = median(baseline)
    # 1.4826 times the median absolute deviation is the standard deviation of a normal distribution.
    deviation = 1.4826 * median(abs(loss - center) for loss in baseline)
    return center + max(SPIKE_DEVIATIONS * deviation, SPIKE_FRACTION * abs(center))


def stop_early(patience: int) -> Policy:
    """Return a policy that ends the run as completed after `patience` evaluations without a new best loss."""

    def policy(event: Event) -> Decision:
        if isinstance(event, EvalEnd) and event.evals_since_best >= patience:
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
