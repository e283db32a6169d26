"""Where a number becomes a diagnosis."""

import math
from dataclasses import dataclass

BOUNDS = {"confidence": (0.0, 0.9999), "fewest": (3, math.inf)}
"""Student's interval is endless at a confidence of 1; a slope with an error rests on three points."""
SHARE_SUFFIXES = ("_share", "_fall", "_gap", "_margin", "_ratio")
"""Ends of the names of what lies between 0 and 1; of any other number only the sign is wrong."""


@dataclass(frozen=True)
class Thresholds:
    """As conf/thresholds/default.yaml has them, each with its source.

    Raises ValueError where one cannot be what it is called."""

    confidence: float = 0.95
    fewest: int = 4
    least_share: float = 0.3
    peak_share: float = 0.3
    plateau_fall: float = 0.005
    plateau_drop: float = 0.0
    plateau_steps: int = 0
    underfit_fall: float = 0.05
    never_margin: float = 0.02
    never_fall: float = 0.01
    overfit_gap: float = 0.01
    overfit_z: float = 3.0
    spike_z: float = 6.0
    spike_share: float = 0.1
    spike_rise: float = 0.0
    clip_share: float = 0.8
    norm_limit: float = math.inf
    norm_jump: float = 5.0
    vanish_ratio: float = 1e-4
    dominate_share: float = 0.95
    warmup_rise: float = 0.05
    slow_share: float = 0.3
    slow_seconds: float = 60.0
    noise_share: float = 0.003
    coverage_gap: float = 0.001

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            least, most = BOUNDS.get(name, (0.0, 1.0) if _is_share(name) else (0.0, math.inf))
            if not least <= value <= most:
                beyond = f"lie between {least:g} and {most:g}" if most < math.inf else f"be {least:g} or more"
                raise ValueError(f"{name}: {value:g} must {beyond}")


def _is_share(name: str) -> bool:
    return name.endswith(SHARE_SUFFIXES)
