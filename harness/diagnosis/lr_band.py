"""The band of learning rates worth a sweep, from the losses of a range test (Smith, 2017)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

MIN_STEPS = 20
BASELINE_FRACTION = 0.1  # of the steps, at the lowest LRs, that show the initial loss and its noise
FALL_START_FRACTION = 0.1  # of the whole fall, at which the loss has begun to fall
MIN_FALL_IN_NOISE, MIN_FALL_FRACTION = 4.0, 0.01  # standard deviations of the noise, and of the loss
# Extent of the band around the LR with the lowest loss. fast.ai takes a tenth of that LR; runs here, with warm-up and
# decay, do best near it (docs/diagnosing.md).
MAX_FACTOR_BELOW, MAX_FACTOR_ABOVE = 30.0, 3.0
MIN_WIDTH = 10.0  # a decade


@dataclass(frozen=True)
class LRBand:
    """`low` and `high` bound the LRs worth a sweep; the loss was lowest at `best_lr`."""

    low: float
    high: float
    best_lr: float
    reason: str


def compute_lr_band(lrs: Sequence[float], losses: Sequence[float]) -> LRBand | str:
    """Return the band for exponentially increasing LRs, or the reason why there is none.

    It starts where the loss begins to fall, at most MAX_FACTOR_BELOW below the best LR. It ends MAX_FACTOR_ABOVE above
    that, or where the loss is back at its start. It spans at least a decade.
    """
    if len(losses) < MIN_STEPS:
        return f"the loss exploded after {len(losses)} steps at an LR of {lrs[-1]:.1e}; start lower, with --low"
    smooth = smooth_losses(losses)
    baseline = np.asarray(losses[: max(5, round(len(losses) * BASELINE_FRACTION))])
    start, noise = float(np.median(baseline)), float(np.std(baseline, ddof=1))
    at = int(np.argmin(smooth))
    fall = start - float(smooth[at])
    min_fall = max(MIN_FALL_IN_NOISE * noise / math.sqrt(smoothing_radius(len(losses))), MIN_FALL_FRACTION * abs(start))
    if fall < min_fall:
        return (
            f"the loss of about {start:.4g} fell by at most {max(fall, 0):.2g}, less than {min_fall:.2g}: the model "
            "learns at no LR; run `plateau preflight` to find out why"
        )
    still_high = np.flatnonzero(smooth[: at + 1] > start - FALL_START_FRACTION * fall)
    fall_start = float(lrs[int(still_high[-1]) if len(still_high) else 0])
    back = np.flatnonzero(smooth[at:] > start)
    best_lr = float(lrs[at])
    high = min(MAX_FACTOR_ABOVE * best_lr, float(lrs[at + back[0]]) if len(back) else math.inf)
    low = min(max(fall_start, best_lr / MAX_FACTOR_BELOW), high / MIN_WIDTH)
    reason = f"the loss fell from {start:.4g} at an LR of {fall_start:.1e} to {smooth[at]:.4g} at {best_lr:.1e}"
    return LRBand(float(f"{low:.0e}"), float(f"{high:.0e}"), best_lr, reason)


def smooth_losses(losses: Sequence[float]) -> np.ndarray:
    """Return a centred moving average with triangular weights, which does not shift the curve to higher LRs."""
    radius = smoothing_radius(len(losses))
    weights = np.r_[1 : radius + 2, radius:0:-1].astype(float)
    values = np.asarray(losses, float)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def smoothing_radius(steps: int) -> int:
    """Return the neighbours on each side: a quarter of a decade in a test of eight decades."""
    return max(1, steps // 32)
