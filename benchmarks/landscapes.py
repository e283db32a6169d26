"""Recorded learning curves of real tunings, on which sweeps can be simulated in seconds.

A landscape is an .npz file with `x` [n, d], configurations scaled to 0..1 (logarithmically where the tuning was);
`columns`, their names; `curves` [n, t], validation losses at `shares` [t] of a whole run; `cost` [n], the tokens of a
whole run over their mean.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

WARMUP_COLUMN, LONGEST_WARMUP = "warmup", 0.2
"""The column of the warm-up, as a share of the run, in landscapes that were recorded with this project's sweeps."""
LIKELY_SHARE = 1 - 0.5 ** (1 / 24)
"""Share of good configurations from which 24 random ones are more likely than not to include one."""


@dataclass(frozen=True)
class Landscape:
    """Recorded configurations and their learning curves."""

    name: str
    columns: Sequence[str]
    points: np.ndarray
    curves: np.ndarray
    shares: np.ndarray
    costs: np.ndarray

    @property
    def family(self) -> str:
        """Return the first part of the name, such as taskset."""
        return self.name.partition("_")[0]

    @property
    def longest_warmup(self) -> float:
        """Return the share of a run that the longest warm-up takes; 0 where the warm-up was not tuned."""
        return LONGEST_WARMUP if WARMUP_COLUMN in self.columns else 0.0

    @cached_property
    def column_weights(self) -> np.ndarray:
        """Return how much each column decides the final loss: the share of the variance of its rank that ten bins of
        the column explain, over that of the most important column."""
        ranks = self.curves.min(1).argsort().argsort().astype(float)
        explained = []
        for column in self.points.T:
            bins = np.array_split(ranks[column.argsort(kind="stable")], min(10, len(ranks) // 4))
            explained.append(sum(len(one) * (one.mean() - ranks.mean()) ** 2 for one in bins))
        return np.array(explained) / max(explained) + 0.05

    @cached_property
    def is_flat(self) -> bool:
        """Return whether 24 random configurations are likely to include one within two noise levels of the best.

        The noise of one evaluation is estimated from the second differences of the last quarter of the best tenth of
        the curves, which a smooth curve does not have.
        """
        best = self.curves.min(1)
        top = best.argsort()[: max(5, len(best) // 10)]
        ends = self.curves[top, -max(4, len(self.shares) // 4) :]
        noise = np.median(np.abs(np.diff(ends, 2, axis=1))) / 0.6745 / 6**0.5  # 6: variance of a second difference
        return bool(np.mean(best <= best.min() + 2 * noise) >= LIKELY_SHARE)

    def find_index(self, share: float) -> int:
        """Return the index of the first evaluation at or after a share of the run."""
        return min(int(np.searchsorted(self.shares, share - 1e-6)), len(self.shares) - 1)

    def find_nearest(self, point: np.ndarray, used: set[int]) -> int:
        """Return the recorded configuration nearest to a point, of those that are not in `used`."""
        distances = ((self.points - point) ** 2) @ self.column_weights
        distances[list(used)] = np.inf
        return int(distances.argmin())


def load_landscapes(folder: Path, part: str = "") -> Iterator[Landscape]:
    """Yield the landscapes of a folder whose names contain `part`, by name."""
    for path in sorted(folder.glob("*.npz")):
        if part in path.stem:
            with np.load(path) as data:
                arrays = {key: np.asarray(data[key], float) for key in ("x", "curves", "shares", "cost")}
                names = [str(name) for name in data["columns"]]
            yield Landscape(path.stem, names, arrays["x"], arrays["curves"], arrays["shares"], arrays["cost"])


class Ledger:
    """Tokens that a simulated sweep has spent, in whole runs of average cost, and the losses that it has measured.

    A run is evaluated at `n_evaluations` even shares and wherever else its sweep asks; each costs `evaluation_cost` of
    a run.
    """

    def __init__(self, landscape: Landscape, evaluation_cost: float, n_evaluations: int) -> None:
        self.landscape, self._evaluation_cost = landscape, evaluation_cost
        self.shares = [(step + 1) / n_evaluations for step in range(n_evaluations)]
        self._grid = {landscape.find_index(share) for share in self.shares}
        self.reached: dict[int, int] = {}
        self.best_of: dict[int, float] = {}
        self.spent, self.best = 0.0, np.inf
        self.improvements: list[tuple[float, float]] = []

    def train(self, config: int, share: float) -> float:
        """Train a configuration up to a share of its run, and return its best loss so far."""
        landscape, start, end = self.landscape, self.reached.get(config, -1), self.landscape.find_index(share)
        for index in range(start + 1, end + 1):
            before = landscape.shares[index - 1] if index else 0.0
            self.spent += (landscape.shares[index] - before) * landscape.costs[config]
            if index in self._grid or index == end:
                self.spent += self._evaluation_cost * landscape.costs[config]
                self._record(config, float(landscape.curves[config, index]))
        self.reached[config] = max(start, end)
        return self.best_of[config]

    def _record(self, config: int, loss: float) -> None:
        self.best_of[config] = min(self.best_of.get(config, np.inf), loss)
        if loss < self.best:
            self.best = loss
            self.improvements.append((self.spent, loss))

    def spent_until(self, target: float) -> float:
        """Return the tokens until a loss was at or below the target, infinite if none was."""
        return next((spent for spent, loss in self.improvements if loss <= target + 1e-12), np.inf)
