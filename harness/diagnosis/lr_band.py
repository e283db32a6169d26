"""What a range test of the learning rate shows (Smith, 2017): the band in which the loss falls well."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

RANGE_TEST_FOLDER, RANGE_TEST_FILE = "lr_range", "lr_range.json"
"""Of range tests, in a run's output folder; of one's numbers, in a folder of its own there."""

MIN_STEPS = 20
"""Steps that a range test needs to show anything."""
BASELINE_SHARE = 0.1
"""Share of the steps, at the smallest LRs, that show the loss before it moves, and its noise."""
FALL_START_SHARE = 0.1
"""Share of its whole fall by which the loss has begun to fall."""
MIN_FALL_IN_NOISE, MIN_FALL_SHARE = 4.0, 0.01
"""A fall counts from so many standard deviations of the noise, and from such a share of the loss, on."""
MAX_FACTOR_BELOW, MAX_FACTOR_ABOVE = 30.0, 3.0
"""How far below and above the LR at which the loss was least a sweep goes: fast.ai takes a tenth of it, and warm-up and
decay let runs here do best at it (docs/diagnosing.md)."""
MIN_WIDTH = 10.0
"""A decade: what a sweep should at least span."""

IGNORED_GROUPS = (
    "schedule", "observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "device", "seed",
    "compile", "preflight", "thresholds", "expect", "precision",
)  # fmt: skip
"""Roots of keys that a range test does not depend on."""
DECISIVE_OF_LOOP = "loop.grad_clip"


@dataclass(frozen=True)
class LRBand:
    """`low` and `high` bound the LRs worth a sweep; at `bottom` the loss was least."""

    low: float
    high: float
    best_lr: float
    reason: str


def compute_lr_band(lrs: Sequence[float], losses: Sequence[float]) -> LRBand | str:
    """From where the loss has begun to fall, but at most BELOW times below where it is least, up to ABOVE times above
    that, but not to where it is back at its start; at least a decade. Or why there is none. LRs rise exponentially."""
    if len(losses) < MIN_STEPS:
        return (
            f"it ended after {len(losses)} steps: the loss broke off at an LR of {lrs[-1]:.1e}; begin lower, with --low"
        )
    smooth = smooth_losses(losses)
    calm = np.asarray(losses[: max(5, round(len(losses) * BASELINE_SHARE))])
    start, noise = float(np.median(calm)), float(np.std(calm, ddof=1))
    at = int(np.argmin(smooth))
    fall = start - float(smooth[at])
    least = max(MIN_FALL_IN_NOISE * noise / math.sqrt(smoothing_radius(len(losses))), MIN_FALL_SHARE * abs(start))
    if fall < least:
        return (
            f"the loss of about {start:.4g} fell by {max(fall, 0):.2g} at most, and {least:.2g} would count: at no LR "
            "does it learn; python -m harness preflight may show why"
        )
    begun = float(lrs[max(np.flatnonzero(smooth[: at + 1] > start - FALL_START_SHARE * fall), default=0)])
    back = np.flatnonzero(smooth[at:] > start)
    bottom = float(lrs[at])
    high = min(MAX_FACTOR_ABOVE * bottom, float(lrs[at + back[0]]) if len(back) else math.inf)
    low = min(max(begun, bottom / MAX_FACTOR_BELOW), high / MIN_WIDTH)
    reason = f"the loss fell from {start:.4g}, from an LR of {begun:.1e} on, to {smooth[at]:.4g} at {bottom:.1e}"
    return LRBand(_rounded(low), _rounded(high), bottom, reason)


def smooth_losses(losses: Sequence[float]) -> np.ndarray:
    """A mean over neighbours on both sides, nearer ones counting more, so that nothing is moved to later steps."""
    half = smoothing_radius(len(losses))
    weights = np.r_[1 : half + 2, half:0:-1].astype(float)
    finite = np.asarray(losses, float)
    total = np.convolve(finite, weights, "same")
    return total / np.convolve(np.ones(len(finite)), weights, "same")


def smoothing_radius(steps: int) -> int:
    """Neighbours on each side that smoothing takes in: a quarter of a decade in a test of eight."""
    return max(1, steps // 32)


def range_test_key(params: Mapping[str, str]) -> str:
    """The same for runs whose range test would be the same: of all parameters that decide it, by their dotted keys."""
    roots = {name.partition(".")[0] for name in params if "." in name}
    decisive = {
        name: value
        for name, value in params.items()
        if ("." in name or name not in roots)  # a swept choice stands beside the keys that it sets
        and name.partition(".")[0] not in IGNORED_GROUPS
        and not (name.startswith("optimizer.") and name.endswith("lr"))
        and (not name.startswith("loop.") or name == DECISIVE_OF_LOOP)
    }
    return hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:16]


def load_lr_band(outputs: Path, params: Mapping[str, str]) -> tuple[float, float] | None:
    """Of the latest range test in `outputs` of a run with these parameters; None where there is none."""
    tests = sorted((outputs / RANGE_TEST_FOLDER).glob(f"*/{RANGE_TEST_FILE}"), reverse=True)
    if tests:
        wanted = range_test_key(params)
        for test in tests:
            said = _read_json(test)
            if said.get("key") == wanted and said.get("band"):
                return tuple(said["band"])
    return None


def _read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError):  # cut off while it was written
        return {}


def _rounded(lr: float) -> float:
    return float(f"{lr:.0e}")
