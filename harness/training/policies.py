"""What may change a run: pure functions of the facts, asked between steps, carried out by the loop."""

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median
from typing import Literal

from harness.core.events import EvalEnd, Event, OutOfMemory, Status, StepEnd

SPIKE_WINDOW, SPIKE_STEPS = 50, 3
"""Steps that say what is usual; steps in a row that must lie above it."""
SPIKE_DEVIATIONS, SPIKE_FRACTION = 6.0, 0.1
"""How far above: in robust standard deviations, and as a share of the usual loss."""


@dataclass(frozen=True)
class Stop:
    """End the run with this status; the reason is for people."""

    status: Status
    reason: str


@dataclass(frozen=True)
class ShrinkMicroBatch:
    """Split the same step batch anew, this many examples a forward pass."""

    micro_batch_size: int


@dataclass(frozen=True)
class HandleSpike:
    """The loss left its course after step `began_at`: say so, and stop or go back to the last checkpoint before it,
    with every LR cut to `lr_factor` of what it was; after `max_rollbacks` of these, stop."""

    last_good_step: int
    loss: float
    baseline_loss: float
    action: Literal["warn", "rollback", "stop"]
    lr_factor: float
    max_rollbacks: int


Decision = Stop | ShrinkMicroBatch | HandleSpike | None
Policy = Callable[[Event], Decision]


def first_decision(policies: Iterable[Policy], event: Event) -> Decision:
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


def watch_spikes(
    action: Literal["warn", "rollback", "stop"], *, lr_factor: float = 1.0, max_rollbacks: int = 0, max_skips: int = 0
) -> Policy:
    """Answer when SPIKE_STEPS training losses in a row lie far above those of the SPIKE_WINDOW steps before them.

    A rollback also answers a loss that is not finite (under fp16 after more than `max_skips` skipped steps), as in
    Chowdhery et al., 2022 (section 5.1), who went back and left out the batches at fault."""
    losses: deque[float] = deque(maxlen=SPIKE_WINDOW + SPIKE_STEPS)

    def spiked(began_at: int, loss: float, usual: float) -> HandleSpike:
        losses.clear()
        return HandleSpike(began_at, loss, usual, action, lr_factor, max_rollbacks)

    def policy(event: Event) -> Decision:
        if action == "rollback" and (broke_at := _last_finite_step(event, max_skips)) is not None:
            loss = event.loss if isinstance(event, StepEnd) else event.val_loss
            return spiked(broke_at, loss, median(losses) if losses else math.nan)
        if not isinstance(event, StepEnd) or not math.isfinite(event.loss):
            return None
        losses.append(event.loss)
        usual, latest = list(losses)[:SPIKE_WINDOW], list(losses)[SPIKE_WINDOW:]
        if len(latest) < SPIKE_STEPS or min(latest) <= _spike_threshold(usual):
            return None
        return spiked(event.step - SPIKE_STEPS, event.loss, median(usual))

    return policy


def _last_finite_step(event: Event, max_skips: int) -> int | None:
    """The last step before the loss was no longer finite, where it is not."""
    if isinstance(event, EvalEnd) and event.step and not math.isfinite(event.val_loss):
        return event.step - 1
    return event.step - event.skips if isinstance(event, StepEnd) and event.skips > max_skips else None


def _spike_threshold(usual: list[float]) -> float:
    """Above what is usual: the median absolute deviation times 1.4826 is a normal distribution's standard deviation."""
    middle = median(usual)
    spread = 1.4826 * median(abs(loss - middle) for loss in usual)
    return middle + max(SPIKE_DEVIATIONS * spread, SPIKE_FRACTION * abs(middle))


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
