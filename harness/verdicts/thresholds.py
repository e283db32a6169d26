"""Where a number becomes a verdict."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """As conf/thresholds/default.yaml has them, each with its source; shares are between 0 and 1."""

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
