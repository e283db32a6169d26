"""Thresholds of the diagnoses."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

BOUNDS = {
    "confidence": (0.0, 0.9999),  # the interval is infinite at 1
    "min_points": (3, math.inf),  # fewer leave no degree of freedom for the error of a slope
}
# Name endings of numbers between 0 and 1; the others are 0 or more.
FRACTION_SUFFIXES = ("_fraction", "_fall", "_gap", "_margin", "_ratio", "_progress")


@dataclass(frozen=True)
class Thresholds:
    """When a curve counts as a plateau, a spike and so on. Sources: conf/thresholds/default.yaml.

    Raises:
        ValueError: If a number is out of range.
    """

    confidence: float = 0.95
    min_points: int = 4
    min_progress: float = 0.3
    peak_lr_fraction: float = 0.3
    plateau_fall: float = 0.005
    underfit_fall: float = 0.05
    never_learnt_margin: float = 0.02
    never_learnt_fall: float = 0.01
    overfit_gap: float = 0.01
    overfit_z: float = 3.0
    spike_z: float = 6.0
    spike_fraction: float = 0.1
    clip_fraction: float = 0.8
    norm_jump: float = 5.0
    vanishing_ratio: float = 1e-4
    dominating_fraction: float = 0.95
    warmup_rise: float = 0.05
    slowdown_fraction: float = 0.3
    slowdown_seconds: float = 60.0
    noise_fraction: float = 0.01
    coverage_gap: float = 0.001

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            highest = 1.0 if name.endswith(FRACTION_SUFFIXES) else math.inf
            low, high = BOUNDS.get(name, (0.0, highest))
            if not low <= value <= high:
                allowed = f"between {low:g} and {high:g}" if high < math.inf else f"{low:g} or more"
                raise ValueError(f"{name}: {value:g} must be {allowed}")


THRESHOLD_NAMES = tuple(field.name for field in fields(Thresholds))


def parse_thresholds(assignments: Iterable[str]) -> Thresholds:
    """Return the defaults changed by assignments such as `spike_z=8`.

    Raises:
        ValueError: If a name is unknown, or a value is not a number or out of range.
    """
    changes = {}
    for assignment in assignments:
        name, separator, value = assignment.partition("=")
        if not separator and name in THRESHOLD_NAMES:
            raise ValueError(f"{name}: the value is missing; write it as in {name}={getattr(Thresholds, name):g}")
        changes[name] = value
    return change_thresholds(changes)


def change_thresholds(changes: Mapping[str, object]) -> Thresholds:
    """Return the defaults with `changes`, which are numbers or texts of numbers.

    Raises:
        ValueError: If a name is unknown, or a value is not a number or out of range.
    """
    if not isinstance(changes, Mapping):
        raise ValueError(f"thresholds: {changes!r} must map names to numbers, such as {{spike_z: 8}}")
    numbers = {}
    for name, value in changes.items():
        if name not in THRESHOLD_NAMES:
            raise ValueError(f"{name}: unknown threshold; must be one of {', '.join(THRESHOLD_NAMES)}")
        try:
            numbers[name] = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise ValueError(f"{name}: {value!r} must be a number") from None
    return Thresholds(**numbers)  # type: ignore[arg-type]  # min_points may be a float, it is only compared
