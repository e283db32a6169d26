"""Add seeds in steps and stop as soon as the comparison is decided, without more false claims than one comparison.

Method: group sequential test with the error spending of Lan & DeMets (1983) that approximates the boundaries of O'Brien
& Fleming (1979). The boundaries, computed for a normal statistic by recursive integration (Armitage, McPherson & Rowe
1969), are used as levels of the p value (Pocock 1977; Jennison & Turnbull 2000, on unknown variance). The interval at a
stop is a repeated confidence interval (Jennison & Turnbull 1989).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from harness.evidence.statistics.seed_comparison import (
    CONFIDENCE,
    SeedComparison,
    check_comparison_options,
    compare_loss_arrays,
    read_losses,
)


@dataclass(frozen=True)
class SeedDecision:
    """Result of one look: `comparison` at the level of this look; seeds a side for the next look, or None to stop."""

    comparison: SeedComparison
    next_seeds: int | None


@dataclass(frozen=True)
class SeedPlan:
    """Numbers of seeds a side at which the losses may be compared, fixed in advance; the last is the most to run.

    For m candidates, give each the plan with `confidence=1 - 0.05 / m`.

    Raises:
        ValueError: the looks do not increase, or begin below 2 seeds.
    """

    looks: tuple[int, ...]
    confidence: float = CONFIDENCE

    def __post_init__(self) -> None:
        check_comparison_options(None, self.confidence)
        if not self.looks or self.looks[0] < 2 or any(b <= a for a, b in zip(self.looks, self.looks[1:], strict=False)):
            raise ValueError(f"looks: {self.looks}: must be increasing numbers of seeds from 2 up, such as (3, 4, 5)")

    @property
    def levels(self) -> tuple[float, ...]:
        """Two-sided level at each look. Using all of them costs 1 - confidence together."""
        return compute_look_levels(self.looks, 1 - self.confidence)

    def decide(
        self, baseline: Iterable[Any], candidate: Iterable[Any], *, paired: bool = False, margin: float | None = None
    ) -> SeedDecision:
        """Compare the losses so far; every look before must have been decided in the same way.

        Raises:
            ValueError: the number of seeds (the smaller side's) is not one of the looks; or as `compare_losses`.
        """
        check_comparison_options(margin, self.confidence)
        sides = read_losses("baseline", baseline), read_losses("candidate", candidate)
        n_seeds = min(map(len, sides))
        if n_seeds not in self.looks:
            raise ValueError(f"looks: {n_seeds} seeds: not one of the planned looks {self.looks}")
        look = self.looks.index(n_seeds)
        comparison = compare_loss_arrays(*sides, paired, margin, self.levels[look], self.levels[look])
        is_last = look == len(self.looks) - 1
        return SeedDecision(comparison, None if is_last or comparison.status != "not shown" else self.looks[look + 1])


@lru_cache(maxsize=64)
def compute_look_levels(looks: tuple[int, ...], alpha: float) -> tuple[float, ...]:
    """Return the two-sided level of each look, such that a normal statistic crosses any with probability alpha."""
    shares = np.array(looks) / looks[-1]
    spent = 2 * ndtr(ndtri(alpha / 4) / np.sqrt(shares))  # of alpha / 2, on each side
    points, density, before = np.zeros(1), np.ones(1), 0.0  # distribution of the sum while no boundary was crossed
    levels = []
    for share, target in zip(shares, np.diff(spent, prepend=0.0), strict=True):
        step = np.sqrt(share - before)
        low, high = 0.0, 40.0
        for _ in range(60):
            boundary = (low + high) / 2
            crossing = density @ ndtr((points - boundary * np.sqrt(share)) / step)
            low, high = (boundary, high) if crossing > target else (low, boundary)
        levels.append(2 * float(ndtr(-high)))
        edge = high * np.sqrt(share)
        grid = np.linspace(-edge, edge, 1001)
        weights = np.full(len(grid), grid[1] - grid[0])
        weights[[0, -1]] /= 2
        spread = np.exp(-(((grid[:, None] - points) / step) ** 2) / 2) / (step * np.sqrt(2 * np.pi))
        points, density, before = grid, weights * (spread @ density), share
    return tuple(levels)
