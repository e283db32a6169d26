"""Find parameters of the best trial that lie at the boundary of their range, and suggest a wider range."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.sweep.space.search_space import CONDITION_SEPARATOR, config_key, format_range

EDGE_SHARE = 0.05
"""Share of a float range, on its own scale, that counts as its boundary; an integer must equal the bound."""
MAX_LOG_FACTOR = 4.0
"""Largest factor by which a logarithmic range is widened."""

SEED = "seed"
"""A key whose values have no order: another seed is no better."""

Direction = Literal["down", "up"]
Interval = FloatDistribution | IntDistribution


@dataclass(frozen=True)
class BoundaryHit:
    """A value near a bound of its range.

    `wider_range` is in Hydra's sweep syntax. If `condition` is not empty, the range holds only for that group choice.
    """

    key: str
    condition: str
    value: float
    bound: float
    direction: Direction
    wider_range: str


def find_boundary_hit(name: str, value: Any, distribution: BaseDistribution) -> BoundaryHit | None:
    """Return the boundary hit of Optuna's parameter `name`; None if `value` is inside or the bound cannot be moved."""
    if config_key(name) == SEED:
        return None
    wider: BaseDistribution | None
    choices: list[Any] = []
    if isinstance(distribution, CategoricalDistribution):
        if len(distribution.choices) < 3 or any(isinstance(one, bool | str | None) for one in distribution.choices):
            return None
        choices = sorted(distribution.choices)
        low, high, edge = choices[0], choices[-1], 0.0
    else:
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, edge = distribution.low, distribution.high, EDGE_SHARE * isinstance(distribution, FloatDistribution)
    direction = _find_direction(value, low, high, edge, is_log=getattr(distribution, "log", False))
    if direction is None:
        return None
    if isinstance(distribution, CategoricalDistribution):
        wider = _add_choice(choices if direction == "up" else choices[::-1])
    else:
        wider = _widen_interval(distribution, direction)
    if wider is None:
        return None
    condition = name.partition(CONDITION_SEPARATOR)[2]
    bound = low if direction == "down" else high
    return BoundaryHit(config_key(name), condition, value, bound, direction, format_range(wider))


def _find_direction(value: float, low: float, high: float, edge: float, *, is_log: bool) -> Direction | None:
    """Return the bound within a share `edge` of the range from `value`, if any."""
    if low == high:
        return None
    low, high, value = (math.log(x) if is_log else x for x in (low, high, value))
    share = (value - low) / (high - low)
    return "down" if share <= edge else "up" if share >= 1 - edge else None


def _widen_interval(interval: Interval, direction: Direction) -> Interval | None:
    is_int = isinstance(interval, IntDistribution)
    low: Any = interval.low
    high: Any = interval.high
    if direction == "down":
        low = _round_bound(_extend_bound(interval, -1), is_int)
        low = max(low, 1) if is_int and interval.low > 0 else low
    else:
        high = _round_bound(_extend_bound(interval, 1), is_int)
    if (low, high) == (interval.low, interval.high):
        return None
    step: Any = interval.step
    return type(interval)(low, high, log=interval.log, step=step)


def _extend_bound(interval: Interval, sign: int) -> float:
    """Move the bound outwards by half the range; positive ranges stay positive and shares stay within 0 to 1."""
    bound = interval.high if sign > 0 else interval.low
    if interval.log:
        return bound * float(f"{min(math.sqrt(interval.high / interval.low), MAX_LOG_FACTOR):.2g}") ** sign
    half = (interval.high - interval.low) / 2
    half = max(1, round(half / interval.step)) * interval.step if interval.step else half
    if sign > 0:
        return min(bound + half, 1.0) if interval.low >= 0 and interval.high <= 1 else bound + half
    lowest = bound if interval.step not in (None, 1) else bound / 2
    return max(bound - half, lowest) if bound >= 0 else bound - half


def _add_choice(ordered: Sequence[float]) -> CategoricalDistribution | None:
    """Add a choice after the last, in the ratio of the last two."""
    before, last = ordered[-2:]
    if before <= 0 or last <= 0:
        return None
    following = _round_bound(last * last / before, all(isinstance(choice, int) for choice in ordered))
    if following == last or following <= 0:
        return None
    return CategoricalDistribution(sorted([*ordered, following]))


def _round_bound(number: float, is_int: bool) -> float:
    return round(number) if is_int else float(f"{number:.6g}")
