"""The band of learning rates worth a sweep, from the losses of a range test (Smith, 2017)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.diagnosis.trend import estimate_noise, fit_trend

MIN_STEPS = 20
BASELINE_FRACTION = 0.1  # of the steps, at the lowest LRs, that show the initial loss and its noise
FALL_START_FRACTION = 0.1  # of the whole fall, at which the loss has begun to fall
# A fall of less is chance, or of no use: standard errors, and a fraction of the loss (as in diagnosis/loss_curves.py).
MIN_FALL_IN_NOISE, MIN_FALL_FRACTION = 4.0, 0.001
TREND_CONFIDENCE = 0.99  # that the loss already changes at the lowest LRs
HIGH_LR = 1.0  # no optimizer of ours needs a higher one
STRONG_FALL_IN_NOISE, STRONG_FALL_FRACTION = 10.0, 0.01  # what makes the evidence strong
# Extent of the band around the LR with the lowest loss. fast.ai takes a tenth of that LR; runs here, with warm-up and
# decay, do best near it (docs/diagnosing.md).
MAX_FACTOR_BELOW, MAX_FACTOR_ABOVE = 30.0, 3.0
MIN_WIDTH = 10.0  # a decade
# A sweep searches a decade on either side of the best LR, but does not go far where the loss exploded. Whole runs did
# best at up to 1.5 times the best LR of the test.
SEARCH_FACTOR, MIN_FACTOR_ABOVE = 10.0, 2.0


@dataclass(frozen=True)
class LRBand:
    """An LR between `low` and `high` is not far off; the loss was lowest at `best_lr`.

    `ceiling` is the LR above it at which the loss was back at its start, infinite if it never was.
    """

    low: float
    high: float
    best_lr: float
    reason: str
    evidence: str = ""  # how strong it is, and why
    ceiling: float = math.inf

    @property
    def search_range(self) -> tuple[float, float]:
        """Return the LRs worth a sweep: a decade on either side of the best one, without those that diverged."""
        high = max(min(self.best_lr * SEARCH_FACTOR, self.ceiling), self.best_lr * MIN_FACTOR_ABOVE)
        return _round_bounds(self.best_lr / SEARCH_FACTOR, self.best_lr, high)


def compute_lr_band(lrs: Sequence[float], losses: Sequence[float]) -> LRBand | str:
    """Return the band for exponentially increasing LRs, or the reason why there is none.

    It starts where the loss begins to fall, at most MAX_FACTOR_BELOW below the best LR. It ends MAX_FACTOR_ABOVE above
    that, or where the loss is back at its start. It spans at least a decade. A small fall that is clearly more than
    noise has a band too, whose evidence is weak.
    """
    if len(losses) < MIN_STEPS:
        return _describe_few_losses(lrs, losses)
    smooth = smooth_losses(losses)
    at = int(np.argmin(smooth))
    start, noise, falls_at_once = _fit_baseline(losses, smooth)
    fall = start - float(smooth[at])
    error = noise / math.sqrt(smoothing_radius(len(losses)))  # of a smoothed loss
    min_fall = max(MIN_FALL_IN_NOISE * error, MIN_FALL_FRACTION * abs(start))
    if fall < min_fall:
        return _describe_no_fall(lrs, losses, start, min_fall)
    still_high = np.flatnonzero(smooth[: at + 1] > start - FALL_START_FRACTION * fall)
    fall_start = float(lrs[int(still_high[-1]) if len(still_high) else 0])
    back = np.flatnonzero(smooth[at:] > start)
    best_lr = float(lrs[at])
    ceiling = float(lrs[at + back[0]]) if len(back) else math.inf
    high = min(MAX_FACTOR_ABOVE * best_lr, ceiling)
    low = min(max(fall_start, best_lr / MAX_FACTOR_BELOW), high / MIN_WIDTH)
    reason = f"the loss fell from {start:.4g} at an LR of {fall_start:.1e} to {smooth[at]:.4g} at {best_lr:.1e}"
    ends = [text for is_open, text in (
        (falls_at_once, "it already fell at the first LR: start lower, with --low"),
        (at == len(lrs) - 1, "it still fell at the last LR: raise --high"),
    ) if is_open]  # fmt: skip
    evidence = _describe_evidence(fall, start, error, ends)
    return LRBand(*_round_bounds(low, best_lr, high), best_lr, reason, evidence, ceiling)


def _fit_baseline(losses: Sequence[float], smooth: np.ndarray) -> tuple[float, float, bool]:
    """Return the initial loss, the noise of one loss, and whether the loss already falls at the lowest LRs.

    A fall is not noise, so the noise is that around a line or, if larger, around a smooth curve to the lowest loss.
    """
    count, lowest = _count_baseline(len(losses)), int(np.argmin(smooth))
    baseline = np.asarray(losses[:count], float)
    trend = fit_trend(np.arange(count, dtype=float), baseline)
    line = trend.end + trend.slope * np.arange(1 - count, 1)
    around_line = math.sqrt(float(((baseline - line) ** 2).sum()) / (count - 2))
    noise = max(around_line, estimate_noise(np.asarray(losses[: max(lowest + 1, len(losses) // 2)], float)))
    low, high = trend.interval(TREND_CONFIDENCE)
    start = float(np.median(baseline) if low <= 0 <= high else line[0])
    falls_at_once = high < 0 and start - line[-1] > FALL_START_FRACTION * (start - smooth.min())
    return start, noise, bool(falls_at_once)


def _count_baseline(steps: int) -> int:
    return max(5, round(steps * BASELINE_FRACTION))


def _describe_few_losses(lrs: Sequence[float], losses: Sequence[float]) -> str:
    """Return why losses up to an explosion are too few for a band, and what gives more of them."""
    start, lowest = float(losses[0]), min(map(float, losses))
    exploded = f"exploded after {len(losses)} steps at an LR of {lrs[-1]:.1e}"
    if start - lowest < STRONG_FALL_FRACTION * abs(start):
        return f"the loss {exploded} and never fell; start lower, with --low"
    best_lr = lrs[int(np.argmin(losses))]
    return (
        f"the loss fell from {start:.4g} to {lowest:.4g} at an LR of {best_lr:.1e} and {exploded}, "
        f"too soon for a band: {len(losses)} of {MIN_STEPS} losses; use more --steps"
    )


def _describe_no_fall(lrs: Sequence[float], losses: Sequence[float], start: float, min_fall: float) -> str:
    """Return why there is no band: the LRs were all too high or too low, or the model does not learn."""
    smooth, first = smooth_losses(losses), float(losses[0])
    sure_fall = max(STRONG_FALL_IN_NOISE * estimate_noise(np.asarray(losses, float)), STRONG_FALL_FRACTION * abs(first))
    if first - smooth.min() >= sure_fall:
        return (
            f"the loss fell from {first:.4g} at the first LRs already, {lrs[0]:.1e} and more; start lower, with --low"
        )
    fall, rise = max(0.0, start - float(smooth.min())), float(smooth.max()) - start
    risen = np.flatnonzero(smooth - start >= min_fall)
    if len(risen) and risen[0] < _count_baseline(len(smooth)):
        return f"the loss rose from about {start:.4g} at the first LRs, {lrs[0]:.1e} and more; start lower, with --low"
    if not len(risen) and lrs[-1] < HIGH_LR:
        return (
            f"the loss of about {start:.4g} moved by at most {max(fall, rise):.2g}, less than {min_fall:.2g}, up to an "
            f"LR of {lrs[-1]:.1e}; raise --high"
        )
    return (
        f"the loss of about {start:.4g} fell by at most {fall:.2g}, less than {min_fall:.2g}: the model "
        "learns at no LR; run `plateau preflight` to find out why"
    )


def _describe_evidence(fall: float, start: float, error: float, ends: Sequence[str]) -> str:
    """Return "strong" or "weak" with the fall and the noise that it is compared with.

    `ends` say where the band may go on beyond the LRs of the test, which makes the evidence weak.
    """
    is_strong = fall >= max(STRONG_FALL_IN_NOISE * error, STRONG_FALL_FRACTION * abs(start)) and not ends
    in_noise = f", {fall / error:.0f} times its noise" if error > 1e-3 * fall else ", far more than its noise"
    remedies = ends or ([] if is_strong else ["more --steps make it surer"])
    return "; ".join(
        [f"{'strong' if is_strong else 'weak'}: a fall of {fall / abs(start):.1%} of the loss{in_noise}", *remedies]
    )


def _round_bounds(low: float, best_lr: float, high: float) -> tuple[float, float]:
    """Round both to one significant digit, away from the best LR where it would fall outside."""
    below, above = float(f"{low:.0e}"), float(f"{high:.0e}")
    below -= 0.0 if below < best_lr else 10.0 ** math.floor(math.log10(low))
    above += 0.0 if above > best_lr else 10.0 ** math.floor(math.log10(high))
    return float(f"{below:.0e}"), float(f"{above:.0e}")


def smooth_losses(losses: Sequence[float]) -> np.ndarray:
    """Return a centred moving average with triangular weights, which does not shift the curve to higher LRs."""
    radius = smoothing_radius(len(losses))
    weights = np.r_[1 : radius + 2, radius:0:-1].astype(float)
    values = np.asarray(losses, float)
    return np.convolve(values, weights, "same") / np.convolve(np.ones(len(values)), weights, "same")


def smoothing_radius(steps: int) -> int:
    """Return the neighbours on each side: a quarter of a decade in a test of eight decades."""
    return max(1, steps // 32)
