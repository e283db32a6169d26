"""The policy that detects loss spikes. `Trainer._handle_spike` in loop.py carries out the rollback that it asks for."""

import math
from statistics import median
from typing import Literal

from harness.core.events import EvalEnd, Event, StepEnd
from harness.training.policies import Decision, HandleSpike, Policy

SPIKE_WINDOW = 50  # steps that define the baseline loss
# Consecutive steps that must exceed the threshold. Rows of a log need more (diagnosis/spikes.py).
SPIKE_STEPS = 3
# The threshold lies above the baseline by the larger of these: robust standard deviations, or a share of the baseline.
SPIKE_DEVIATIONS, SPIKE_FRACTION = 6.0, 0.1


def watch_spikes(
    action: Literal["warn", "rollback", "stop"],
    *,
    lr_factor: float = 1.0,
    max_rollbacks: int = 0,
    max_skips: int = 0,
    losses: list[float] | None = None,
) -> Policy:
    """Return a policy that reacts when SPIKE_STEPS losses in a row exceed the baseline of SPIKE_WINDOW earlier ones.

    With `action="rollback"` it also reacts to a loss that is not finite (under fp16, to more than `max_skips` skipped
    steps), as in Chowdhery et al. (2022, section 5.1), who rolled back and skipped the batches at fault.

    `losses` holds the latest losses; a run whose checkpoints have them continues from the same baseline.
    """
    losses = [] if losses is None else losses

    def policy(event: Event) -> Decision:
        last_good_step = _last_finite_step(event, max_skips) if action == "rollback" else None
        if last_good_step is not None and isinstance(event, StepEnd | EvalEnd):
            loss = event.loss if isinstance(event, StepEnd) else event.val_loss
            baseline_loss = median(losses) if losses else math.nan
        elif isinstance(event, StepEnd) and math.isfinite(event.loss):
            losses.append(event.loss)
            del losses[: -(SPIKE_WINDOW + SPIKE_STEPS)]
            baseline, latest = losses[:SPIKE_WINDOW], losses[SPIKE_WINDOW:]
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
    if isinstance(event, EvalEnd) and event.step and not event.is_probe and not math.isfinite(event.val_loss):
        return event.step - 1
    return event.step - event.skips if isinstance(event, StepEnd) and event.skips > max_skips else None


def _spike_threshold(baseline: list[float]) -> float:
    center = median(baseline)
    # 1.4826 times the median absolute deviation is the standard deviation of a normal distribution.
    deviation = 1.4826 * median(abs(loss - center) for loss in baseline)
    return center + max(SPIKE_DEVIATIONS * deviation, SPIKE_FRACTION * abs(center))
