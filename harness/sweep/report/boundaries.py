"""Where a parameter ended up at the end of its range, and how to widen that range."""

import math
from dataclasses import dataclass
from typing import Any, Literal

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from harness.sweep.space.search_space import CONDITION_SEPARATOR, config_key, format_range

EDGE_SHARE = 0.05
"""Share of a range, on its own scale, that counts as its edge; a whole number has to be the last one."""
MAX_LOG_FACTOR = 4.0
"""The factor by which a logarithmic range is widened at most."""

Direction = Literal["down", "up"]


@dataclass(frozen=True)
class BoundaryHit:
    """A parameter near an end of its range; `widened` is a wider one in Hydra's sweep syntax, for `key`, and where
    `where` is not empty, for that choice of a group only."""

    key: str
    condition: str
    value: float
    bound: float
    direction: Direction
    wider_range: str


def find_boundary_hit(name: str, value: Any, found: BaseDistribution) -> BoundaryHit | None:
    """The edge that `value` of Optuna's parameter `name` lies at; None where it lies at none that can be moved."""
    direction = _find_direction(value, found)
    wider = _widen_range(found, direction) if direction else None
    if direction is None or wider is None:
        return None
    numbers = found.choices if isinstance(found, CategoricalDistribution) else (found.low, found.high)
    end = min(numbers) if direction == "down" else max(numbers)
    return BoundaryHit(
        config_key(name), name.partition(CONDITION_SEPARATOR)[2], value, end, direction, format_range(wider)
    )


def _find_direction(value: Any, found: BaseDistribution) -> Direction | None:
    if isinstance(found, CategoricalDistribution):
        numbers = found.choices
        if len(numbers) < 3 or any(isinstance(choice, bool | str | None) for choice in numbers):
            return None
        return "down" if value == min(numbers) else "up" if value == max(numbers) else None
    if found.low == found.high:
        return None
    low, here, high = (math.log(x) if found.log else x for x in (found.low, value, found.high))
    share, near = (here - low) / (high - low), EDGE_SHARE if isinstance(found, FloatDistribution) else 0.0
    return "down" if share <= near else "up" if share >= 1 - near else None


def _widen_range(found: BaseDistribution, direction: Direction) -> BaseDistribution | None:
    if isinstance(found, CategoricalDistribution):
        return _add_choice(found, direction)
    assert isinstance(found, FloatDistribution | IntDistribution)
    is_whole = isinstance(found, IntDistribution)
    low, high = found.low, found.high
    if direction == "down":
        low = _round_bound(_extend_bound(found, -1), is_whole)
        low = max(low, 1) if is_whole and found.low > 0 else low
    else:
        high = _round_bound(_extend_bound(found, 1), is_whole)
    if (low, high) == (found.low, found.high):
        return None
    return type(found)(low, high, log=found.log, step=found.step)


def _extend_bound(found: FloatDistribution | IntDistribution, sign: int) -> float:
    """Half the range further out; what was positive stays so, and what lay within 0..1 stays there."""
    end = found.high if sign > 0 else found.low
    if found.log:
        return end * float(f"{min(math.sqrt(found.high / found.low), MAX_LOG_FACTOR):.2g}") ** sign
    half = (found.high - found.low) / 2
    half = max(1, round(half / found.step)) * found.step if found.step else half
    if sign > 0:
        return min(end + half, 1.0) if found.low >= 0 and found.high <= 1 else end + half
    lowest = end if found.step not in (None, 1) else end / 2
    return max(end - half, lowest) if end >= 0 else end - half


def _add_choice(found: CategoricalDistribution, direction: Direction) -> CategoricalDistribution | None:
    """The choices and one beyond them, in the proportion of the last two."""
    ordered = sorted(found.choices, reverse=direction == "down")
    before, last = ordered[-2:]
    if before <= 0 or last <= 0:
        return None
    following = _round_bound(last * last / before, all(isinstance(choice, int) for choice in ordered))
    if following == last or following <= 0:
        return None
    return CategoricalDistribution(sorted([*ordered, following]))


def _round_bound(number: float, is_whole: bool) -> float:
    return round(number) if is_whole else float(f"{number:.6g}")
