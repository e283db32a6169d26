"""Findings that are certain enough during training to be reported, or to end it."""

import math

import numpy as np

from harness.core.events import Diagnosis
from harness.diagnosis.gradients import is_scale_invariant
from harness.diagnosis.history import History
from harness.diagnosis.plateau_window import drop_non_finite

MIN_EVALS, MIN_WORSE_EVALS = 5, 3  # of a validation loss that has turned, and of its last ones, above the best
MIN_WORSE_SHARE = 0.1  # the same, of all evaluations of the run: early ones often get worse for a while
MIN_CLIPPED_PART = 0.5  # of the run, of which the start often has larger gradients
RECENT_ROWS = 5
EXPLODED_NORM, EXPLODED_LOSS = 10.0, 1.5  # times the usual norm of the run so far; times its first loss or a guess


def is_settled(diagnosis: Diagnosis, history: History, total_steps: int | None) -> bool:
    """Return whether a finding is likely to hold at the end of the run, too, and its suggestions do no harm until then.

    Clipping in most steps changes little with optimizers such as AdamW, and is the least problem of a loss that rises.
    """
    if diagnosis.kind == "clipping binds":
        is_late = total_steps is not None and history.last_step >= MIN_CLIPPED_PART * total_steps
        return is_late and not is_scale_invariant(history.facts.optimizer) and not is_exploding(history)
    if diagnosis.kind == "never learnt":
        return not is_exploding(history)
    if diagnosis.kind == "overfitting":
        return _has_turned(drop_non_finite(history["val/loss"]).values, history.last_step / (total_steps or math.inf))
    return True


def _has_turned(losses: np.ndarray, completed: float) -> bool:
    """Return whether many evaluations have passed since the best one, and the loss is not on its way back."""
    if len(losses) < MIN_EVALS:
        return False
    since = losses[int(np.argmin(losses)) + 1 :]
    n_expected = len(losses) / completed if completed > 0 else 0
    return len(since) >= max(MIN_WORSE_EVALS, MIN_WORSE_SHARE * n_expected) and bool(losses[-1] >= np.median(since))


def is_exploding(history: History) -> bool:
    """Return whether the recent losses are far above the first one or a guess, or the norms far above the usual."""
    losses, norms = (drop_non_finite(history[name]).values for name in ("train/loss", "train/grad_norm"))
    if len(losses):
        usual = min(abs(float(losses[0])), history.facts.uniform_loss or np.inf)
        if np.median(losses[-RECENT_ROWS:]) > EXPLODED_LOSS * usual:
            return True
    return len(norms) > 2 * RECENT_ROWS and bool(
        np.median(norms[-RECENT_ROWS:]) > EXPLODED_NORM * np.median(norms[: len(norms) // 2])
    )
