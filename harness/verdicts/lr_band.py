"""What a range test of the learning rate shows (Smith, 2017): the band in which the loss falls well."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FOLDER, NAME = "lr_range", "lr_range.json"
"""Of range tests, in a run's output folder; of one's numbers, in a folder of its own there."""

FEWEST = 20
"""Steps that a range test needs to show anything."""
CALM = 0.1
"""Share of the steps, at the smallest LRs, that show the loss before it moves, and its noise."""
BEGUN = 0.1
"""Share of its whole fall by which the loss has begun to fall."""
NOISES, SHARE = 4.0, 0.01
"""A fall counts from so many standard deviations of the noise, and from such a share of the loss, on."""
NARROWEST = 10.0
"""A decade: what a sweep should at least span."""

NOT_DECISIVE = (
    "schedule", "observers", "tracking", "output_dir", "cache_dir", "name", "locked", "unlock", "device", "seed",
    "compile", "preflight", "thresholds", "expect", "effective", "precision",
)  # fmt: skip
"""Roots of keys that a range test does not depend on."""
DECISIVE_OF_LOOP = "loop.grad_clip"


@dataclass(frozen=True)
class Band:
    """`low` and `high` bound the LRs worth a sweep; at `bottom` the loss was least."""

    low: float
    high: float
    bottom: float
    reason: str


def band(lrs: Sequence[float], losses: Sequence[float]) -> Band | str:
    """From where the loss has begun to fall up to where it is least, at least a decade; or why there is none.

    LRs rise exponentially. The best LR of a whole run mostly lies a factor of 2 to 10 below the bottom of the test,
    which is at the edge of what trains (Smith, 2017, section 3.3; fast.ai takes a tenth of it)."""
    if len(losses) < FEWEST:
        return f"it ended after {len(losses)} steps: the loss broke off at an LR of {lrs[-1]:.1e}; begin lower"
    smooth = smoothed(losses)
    calm = np.asarray(losses[: max(5, round(len(losses) * CALM))])
    start, noise = float(np.median(calm)), float(np.std(calm, ddof=1))
    at = int(np.argmin(smooth))
    fall = start - float(smooth[at])
    least = max(NOISES * noise / math.sqrt(reach(len(losses))), SHARE * abs(start))
    if fall < least:
        return (
            f"the loss of about {start:.4g} fell by {max(fall, 0):.2g} at most, and varies by {noise:.2g} by chance: "
            "at no LR does it learn; look at labels and gradients first"
        )
    has_begun = np.flatnonzero(smooth[: at + 1] > start - BEGUN * fall)
    begun = float(lrs[has_begun[-1] if len(has_begun) else 0])
    bottom = float(lrs[at])
    reason = (
        f"the loss fell from {start:.4g} from an LR of {begun:.1e} on, and was least, {smooth[at]:.4g}, at {bottom:.1e}"
    )
    return Band(_rounded(min(begun, bottom / NARROWEST)), _rounded(bottom), bottom, reason)


def smoothed(losses: Sequence[float]) -> np.ndarray:
    """A mean over neighbours on both sides, nearer ones counting more, so that nothing is moved to later steps."""
    half = reach(len(losses))
    weights = np.r_[1 : half + 2, half:0:-1].astype(float)
    finite = np.asarray(losses, float)
    total = np.convolve(finite, weights, "same")
    return total / np.convolve(np.ones(len(finite)), weights, "same")


def reach(steps: int) -> int:
    """Neighbours on each side that smoothing takes in: a quarter of a decade in a test of eight."""
    return max(1, steps // 32)


def override(found: Band) -> str:
    """The band as a sweep takes it."""
    return f"optimizer.lr=tag(log,interval({found.low:.0e},{found.high:.0e}))"


def key(params: Mapping[str, str]) -> str:
    """The same for runs whose range test would be the same: of all parameters that decide it, by their dotted keys."""
    roots = {name.partition(".")[0] for name in params if "." in name}
    decisive = {
        name: value
        for name, value in params.items()
        if ("." in name or name not in roots)  # a swept choice stands beside the keys that it sets
        and name.partition(".")[0] not in NOT_DECISIVE
        and not (name.startswith("optimizer.") and name.endswith("lr"))
        and (not name.startswith("loop.") or name == DECISIVE_OF_LOOP)
    }
    return hashlib.sha256(repr(sorted(decisive.items())).encode()).hexdigest()[:16]


def find_band(outputs: Path, params: Mapping[str, str]) -> tuple[float, float] | None:
    """Of the latest range test in `outputs` of a run with these parameters; None where there is none."""
    tests = sorted((outputs / FOLDER).glob(f"*/{NAME}"), reverse=True)
    if tests:
        wanted = key(params)
        for test in tests:
            said = _read(test)
            if said.get("key") == wanted and said.get("band"):
                return tuple(said["band"])
    return None


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (ValueError, OSError):  # cut off while it was written
        return {}


def _rounded(lr: float) -> float:
    return float(f"{lr:.0e}")
